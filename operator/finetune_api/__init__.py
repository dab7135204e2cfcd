"""The contract of the product: what a FineTuneJob says and reports, and what operator and trainer tell each other.

Imports pydantic and the standard library only, so that every side (operator, trainer, command line) can share it.
"""
