"""TRL's SFTTrainer, without Weights & Biases.

TRL imports that wherever it is installed, which would cost every job two seconds and 25 MB. Must be the only module
that imports a trainer of TRL.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _hidden(package: str) -> Iterator[None]:
    """As if `package` were not installed."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]


with _hidden("wandb"):
    from trl import SFTTrainer

__all__ = ["SFTTrainer"]
