"""Turns the tuned model into artefacts, proves that they compute the same, and publishes them."""
