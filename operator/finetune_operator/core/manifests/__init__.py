"""Builders of the children's manifests: plain dictionaries, one module per kind."""
