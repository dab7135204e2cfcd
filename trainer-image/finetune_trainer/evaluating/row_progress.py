"""How far an evaluation is: rows go through several passes and models, and are told as rows of the data."""

from finetune_trainer.run import Run


class RowProgress:
    """Counts rows through the models, of which there will be `passes` in all."""

    def __init__(self, run: Run, rows: int, passes: int) -> None:
        self._run, self._rows, self._passes, self._done = run, rows, passes, 0
        run.progress.update(0, rows)

    def __call__(self, passed: int) -> None:
        """So many rows more have gone through a model."""
        self._done += passed
        self._run.progress.update(self._rows * self._done // self._passes, self._rows)
