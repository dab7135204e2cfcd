"""Decides everything about a job's life, without I/O, clock or randomness."""
