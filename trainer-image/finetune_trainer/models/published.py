"""What another job has published (job://name): it must be what that job wrote, byte for byte."""

from pathlib import Path

from finetune_api.status import Ancestor
from finetune_trainer.errors import InvalidModelError
from finetune_trainer.exporting.digests import digest, list_files
from finetune_trainer.run import Run


def publication(run: Run, uri: str) -> Ancestor | None:
    """The job that has published what lies at `uri`, which stands where the spec had job://name; None when the user has
    named that place."""
    nearest = run.request.lineage[0] if run.request.lineage else None
    return nearest if nearest is not None and nearest.uri == uri else None


def require_published(run: Run, uri: str, folder: Path) -> None:
    """Raises InvalidModelError when `folder`, the files at `uri`, is not what the job that published them wrote."""
    job = publication(run, uri)
    if job is not None and digest(list_files(folder)) != job.digest:
        raise InvalidModelError(
            f"job://{job.job}: what lies at {job.uri} is not what that job has published: run that job again, or name "
            "the folder itself as the source if the change is wanted"
        )
