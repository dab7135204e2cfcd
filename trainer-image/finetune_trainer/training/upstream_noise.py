"""Lines of the libraries that are harmless here, each silenced by its own words. Must not hide anything else."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

LINES = {
    "transformers.trainer_callback": ("Using EarlyStoppingCallback without load_best_model_at_end",),
    "transformers.trainer": ("The tokenizer has new PAD/BOS/EOS tokens", "No label_names provided for model class"),
    "transformers.trainer_utils": ("The tokenizer has new PAD/BOS/EOS tokens",),
    "torchao": ("Failed to load",),
    "bitsandbytes.autograd._functions": ("MatMul8bitLt: inputs will be cast",),
}
"""Logger -> starts of lines. The best checkpoint is restored by us; special tokens are aligned on purpose. TRL still
sets gradient_checkpointing, which transformers has renamed."""

WARNINGS = (
    (r"Paged optimizers are not supported on CPU", UserWarning),
    (r"Already found a `peft_config` attribute in the model", UserWarning),
    (r"`gradient_checkpointing` is deprecated", FutureWarning),
    (r"`is_gradient_checkpointing` is deprecated", FutureWarning),
)


class _Silencer(logging.Filter):
    def __init__(self, starts: tuple[str, ...]) -> None:
        super().__init__()
        self._starts = starts

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(self._starts)


@contextmanager
def silenced() -> Iterator[None]:
    """Without the known lines until the block ends."""
    filters = [(logging.getLogger(name), _Silencer(starts)) for name, starts in LINES.items()]
    for logger, silencer in filters:
        logger.addFilter(silencer)
    try:
        with warnings.catch_warnings():
            for message, category in WARNINGS:
                warnings.filterwarnings("ignore", message=message, category=category)
            yield
    finally:
        for logger, silencer in filters:
            logger.removeFilter(silencer)
