"""Several adapters on one base: a run for each of them, and what they are together."""
