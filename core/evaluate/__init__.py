"""What a cut costs: retrieval, pairs, labels, drift in the full space, bytes and time."""
