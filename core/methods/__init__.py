"""Pruning methods: one small frozen dataclass each, with the card that documents it. See registry.py."""
