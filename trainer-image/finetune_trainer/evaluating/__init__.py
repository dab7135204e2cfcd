"""Judges the tuned model: losses, answers, metrics, comparison with the base model, gates."""
