"""How the trainer logs: one JSON line per event on stderr in a pod, readable lines on a terminal.

Decides the form only. Must not decide what is worth a line; stdout is left to the summary of a local run.
"""

import logging
import sys
from typing import Literal, TextIO

import structlog
from structlog.typing import Processor

_SHARED: tuple[Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.stdlib.ExtraAdder(),
)


Form = Literal["auto", "json", "text"]


def configure(stream: TextIO | None = None, form: Form = "auto") -> None:
    """Send every line of ours and of the libraries to `stream` (stderr) in one form; auto is text on a terminal."""
    target = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=_SHARED, processors=_renderers(target, form))
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(capture=True)
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    for noisy in ("httpx", "httpx2", "httpcore2", "filelock", "fsspec"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def bind(**context: object) -> None:
    """Put `context` (namespace, name, uid, stage, attempt) on every further line."""
    structlog.contextvars.bind_contextvars(**context)


def _renderers(target: TextIO, form: Form) -> list[Processor]:
    drop = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    if form == "text" or (form == "auto" and target.isatty()):
        return [drop, structlog.dev.ConsoleRenderer(colors=target.isatty(), pad_event_to=0)]
    return [drop, structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
