"""Models and tokenizers: how they are read and what of them is trained."""
