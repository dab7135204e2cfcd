"""Texts of the files that are generated from the contract; scripts/generate.py decides where they lie."""
