"""`finetune-operator`: reads the settings from the environment and runs one replica."""

import asyncio
import gc
import logging
import os
import sys

from pydantic import ValidationError

from finetune_operator.settings import OperatorSettings
from finetune_operator.shell import app, logs


def main() -> None:
    """Run until SIGTERM; exit code 0 then, 1 when the operator cannot go on, 2 for settings that make no sense."""
    try:
        settings = OperatorSettings()
    except ValidationError as error:
        sys.stderr.write(_explain(error))
        sys.exit(2)
    logs.configure(settings.log_level, settings.log_format)
    _tune_garbage_collection()
    code = asyncio.new_event_loop().run_until_complete(app.run(settings))
    logging.shutdown()
    # Not sys.exit: kopf may leave a task that no cancellation ends, and a process that stays would watch nothing.
    os._exit(code)


def _tune_garbage_collection() -> None:
    """Eighty thousand objects of imported modules live as long as the process: no collection needs to walk them again.

    What the work leaves behind is collected after ten thousand new objects instead of seven hundred.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


def _explain(error: ValidationError) -> str:
    lines = (f"{_variable(problem['loc'])}: {problem['msg']}" for problem in error.errors())
    return "cannot start with these settings:\n" + "".join(f"  {line}\n" for line in lines)


def _variable(location: tuple[int | str, ...]) -> str:
    return f"FINETUNE_{str(location[0]).upper()}" if location else "FINETUNE_*"


if __name__ == "__main__":
    main()
