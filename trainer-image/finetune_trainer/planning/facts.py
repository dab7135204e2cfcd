"""What is known before training: where the model came from, the data, the machine. Values only."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from finetune_api.status import DatasetReport
from finetune_trainer.data.examples import LossOn
from finetune_trainer.planning.memory import Precision


@dataclass(frozen=True)
class ModelOrigin:
    """Where the model came from, as the plan reports it."""

    source: str
    revision: str
    digest: str
    continued_digest: str = ""
    """Of the files of the adapter that is continued."""


@dataclass(frozen=True)
class DataFacts:
    """What the plan needs to know of the data."""

    report: DatasetReport
    lengths: Sequence[int]
    """Tokens of each train row."""
    loss_on: LossOn
    distinct_answers: int
    supervised_share: float
    """Largest part of a row's tokens that carries loss."""
    classes: Sequence[str] = ()
    """Names of the classes of a head; empty for tasks without labels."""


@dataclass(frozen=True)
class Machine:
    """Where training will run, as far as it is known beforehand."""

    accelerator: bool
    cpu_bf16: bool
    """Whether the CPU multiplies bf16 natively."""
    memory_limit: int | None
    leaves_holes: bool = True
    """Whether the memory allocator seldom fills the holes between blocks that are kept; see planning/memory.py."""
    speed: dict[Precision, float] = field(default_factory=dict)
    """Floating-point operations per second by number format; empty where it is not known, as on an accelerator."""
