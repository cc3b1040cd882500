"""Training that gives a cut encoder its quality back: one loop (trainer), and what it is trained towards."""
