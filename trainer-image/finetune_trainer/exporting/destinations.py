"""Which kind of destination output.destination names, and whether the job may have it."""

from finetune_api.adapters import adapter_specs
from finetune_trainer.exporting.buckets import BucketDestination
from finetune_trainer.exporting.publishing import Destination, FolderDestination
from finetune_trainer.object_clients import is_object_uri
from finetune_trainer.run import Run


def destination_of(run: Run) -> Destination:
    """Where the job's artefacts go. Raises InvalidSpecError for keys of a bucket that cannot be used."""
    return BucketDestination(run) if is_object_uri(run.spec.output.destination or "") else FolderDestination(run)


def check_destination(run: Run) -> None:
    """For prepare: say at once what export would refuse after hours of training.

    Raises OutputUnwritableError, or SourceUnavailableError for a store that does not answer.
    """
    parts = [*adapter_specs(run.spec).values()] or [run.spec]
    destination_of(run).check([export.name for part in parts for export in part.exports])
