"""What of the spec a head of classes cannot honour and admission cannot see. Pure."""

from collections.abc import Sequence

from finetune_api.heads import HEAD_FORMATS
from finetune_api.spec import FineTuneJobSpec
from finetune_api.tasks import TASK_METRICS
from finetune_trainer.data.labelled import marks_entities
from finetune_trainer.errors import InvalidSpecError

ENTITIES = "seqeval"


def check_head(spec: FineTuneJobSpec) -> None:
    """Raises InvalidSpecError, naming the field and the way out; a task without a head passes."""
    if spec.task not in HEAD_FORMATS:
        return
    if spec.dataset.packing is True:
        raise InvalidSpecError(
            f"dataset.packing: true puts several rows into one sequence, and task: {spec.task} tells the classes of "
            "one row; remove it, or set it to auto"
        )
    stopping = spec.training.early_stopping
    if stopping and stopping.metric == "perplexity":
        raise InvalidSpecError("training.earlyStopping.metric: perplexity is about words; use eval_loss")


def head_metrics(task: str, classes: Sequence[str]) -> list[str]:
    """Metrics of the task that the classes allow."""
    return [name for name in TASK_METRICS[task] if name != ENTITIES or marks_entities(classes)]


def require_entities(metric: str, classes: Sequence[str]) -> None:
    """Raises InvalidSpecError for the entity metric on tags that mark no entities."""
    if metric == ENTITIES and not marks_entities(classes):
        raise InvalidSpecError(
            f"evaluation: seqeval judges entities, and the tags {', '.join(classes[:8])} are not of the BIO scheme "
            "(O, B-type, I-type); use f1 or accuracy"
        )
