"""Trains SmolLM2-135M with LoRA on ragged rows: with this trainer, and with a plain script at TRL's defaults.

Model, rows, batch, learning rate and rank are the same, and all rows are seen once, so every system reads the same
tokens. Steps are timed by what each system writes for TensorBoard. Processor time counts all processes of a system.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from demo.assets import assets
from finetune_api.status import Stage
from finetune_trainer.run import Workspace
from local_cluster import locations
from train.stories import write_stories

HERE = Path(__file__).parent
RANK, LEARNING_RATE = 16, 2e-4
SAMPLE_SECONDS = 0.2


@dataclass(frozen=True)
class Setting:
    """What all systems have in common."""

    work: Path
    steps: int
    batch: int
    held_out: int
    precision: str

    @property
    def workspace(self) -> Workspace:
        """Where prepare put the model and the encoded rows."""
        return Workspace(self.work / "ours" / "workspace")


@dataclass
class Clock:
    """Processor seconds of a process and of all that it started, over time."""

    began: float = field(default_factory=time.time)
    moments: list[float] = field(default_factory=list)
    spent: list[float] = field(default_factory=list)

    def follow(self, process: "subprocess.Popen[bytes]") -> None:
        """Take samples until the process ends."""
        ended: dict[int, float] = {}
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                ended |= {p.pid: _seconds(p) for p in [watched, *watched.children(recursive=True)]}
            except psutil.Error:
                continue
            self.moments.append(time.time())
            self.spent.append(sum(ended.values()))
            time.sleep(SAMPLE_SECONDS)

    def at(self, moment: float) -> float:
        """Processor seconds spent until a moment."""
        return self.spent[min(bisect_left(self.moments, moment), len(self.spent) - 1)]


@dataclass
class Outcome:
    """The figures of one system."""

    name: str
    seconds_to_first_step: float
    tokens_per_second: float
    tokens_per_cpu_second: float
    peak_mib: float
    first_loss: float
    last_loss: float
    held_out_loss: float
    estimated_mib: float | None = None


def main(arguments: list[str] | None = None) -> int:
    """Print the table; the exit code is 1 when a system failed."""
    options = _options(arguments)
    setting = Setting(options.work, options.steps, options.batch, options.held_out, options.precision)
    lengths = _prepare(setting)
    systems: dict[str, Callable[[], tuple[list[str], Path, Path]]] = {
        "this trainer": lambda: _ours(setting),
        "TRL, its defaults": lambda: _plain(setting, "trl-defaults", {}),
        "TRL, fp32 without recomputation": lambda: _plain(
            setting, "trl-fp32", {"bf16": False, "gradient_checkpointing": False}
        ),
    }
    chosen = [name for i, name in enumerate(systems) if options.systems is None or i in options.systems]
    outcomes = [_measured(name, *systems[name](), setting, lengths) for name in chosen]
    print(f"{sum(lengths)} tokens in {len(lengths)} rows of {min(lengths)} to {max(lengths)} tokens, "
          f"{options.batch} rows a step, {os.cpu_count()} cores")  # fmt: skip
    print(_table(outcomes))
    (options.work / "outcomes.json").write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1))
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="train", description=__doc__)
    add = parser.add_argument
    add("--work", type=Path, default=locations.from_environment().cache / "train", help="folder for all that is made")
    add("--steps", type=int, default=24, help="optimizer steps; all rows are seen once")
    add("--batch", type=int, default=8, help="rows of a step")
    add("--held-out", type=int, default=32, help="rows of the test split that judge")
    add("--precision", default="auto", help="number format of this trainer")
    add("--systems", type=int, nargs="*", help="numbers of systems, from 0; all when absent")
    return parser.parse_args(arguments)


def _prepare(setting: Setting) -> list[int]:
    """Write rows, have them encoded; returns the tokens of each train row."""
    from finetune_trainer.training.rows import lengths_of, load_rows

    shutil.rmtree(setting.work, ignore_errors=True)  # a stage that has ended well is not run again
    write_stories(setting.work / "rows", {"train": setting.steps * setting.batch, "test": setting.held_out})
    _finish(subprocess.Popen(_run_command(setting, "prepare")), "prepare")
    return lengths_of(load_rows(setting.workspace.train_rows))


def _job(setting: Setting) -> dict[str, Any]:
    rows = {part: {"source": f"pvc://rows/{name}.jsonl"} for part, name in (("train", "train"), ("eval", "test"))}
    training = {
        "epochs": 1,
        "batchSize": setting.batch,
        "learningRate": LEARNING_RATE,
        "scheduler": "linear",
        "warmupRatio": 0,
        "logEvery": 1,
        "precision": setting.precision,
        "loadBest": False,
        "evalEvery": setting.steps,
        "checkpointEvery": setting.steps,
    }
    spec = {
        "task": "completion",
        "model": {"source": "pvc://assets/SmolLM2-135M-Instruct"},
        "dataset": {**rows, "maxLength": 1024},
        "method": {"type": "lora", "rank": RANK, "alpha": 2 * RANK, "dropout": 0},
        "training": training,
    }
    return {"apiVersion": "slmops.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "train"}, "spec": spec}


def _run_command(setting: Setting, stage: str) -> list[str]:
    job = setting.work / "job.yaml"
    job.write_text(yaml.safe_dump(_job(setting)))
    places = ["--claim", f"assets={assets()}", "--claim", f"rows={setting.work / 'rows'}"]
    command = [sys.executable, "-m", "finetune_trainer.cli", "run", "--job", str(job), "--stage", stage]
    return [*command, "--output", str(setting.work / "ours"), *places]


def _ours(setting: Setting) -> tuple[list[str], Path, Path]:
    """Command, folder of the TensorBoard events, folder of the adapter."""
    return _run_command(setting, "train"), setting.workspace.tensorboard, setting.workspace.tuned


def _plain(setting: Setting, name: str, changed: dict[str, Any]) -> tuple[list[str], Path, Path]:
    output = setting.work / name
    settled = {"batch": setting.batch, "rank": RANK, "learning-rate": LEARNING_RATE, "threads": os.cpu_count() or 1}
    given = [part for key, value in settled.items() for part in (f"--{key}", str(value))]
    places = ["--model", setting.workspace.model, "--rows", setting.work / "rows" / "train.jsonl"]
    command = [sys.executable, HERE / "plain_trl.py", *places, "--output", output, "--set", json.dumps(changed)]
    return [*map(str, command), *given], output / "runs", output


def _measured(
    name: str, command: list[str], events: Path, adapter: Path, setting: Setting, lengths: list[int]
) -> Outcome:
    clock = Clock()
    process = subprocess.Popen(command)
    follower = threading.Thread(target=clock.follow, args=[process])
    follower.start()
    _finish(process, name)
    follower.join()
    steps = _steps(events)
    (first, first_loss), (last, last_loss) = steps[0], steps[-1]
    # The tokens of the first step are unknown here: each step is counted with as many as all have in the mean.
    tokens = sum(lengths) * (len(steps) - 1) / len(steps)
    ours = setting.workspace.result(Stage.TRAIN)
    memory = json.loads(ours.read_text())["plan"]["memory"] if name == "this trainer" else None
    peak = memory["measuredPeakBytes"] if memory else int((adapter / "peak").read_text())
    return Outcome(
        name,
        first - clock.began,
        tokens / (last - first),
        tokens / (clock.at(last) - clock.at(first)),
        peak / 2**20,
        first_loss,
        last_loss,
        _score(setting, adapter),
        memory["estimatedBytes"] / 2**20 if memory else None,
    )


def _steps(events: Path) -> list[tuple[float, float]]:
    """Moment and training loss of each step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    newest = max(events.rglob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime)
    read = EventAccumulator(str(newest.parent), size_guidance={"scalars": 0})
    read.Reload()
    return [(event.wall_time, event.value) for event in read.Scalars("train/loss")]


def _score(setting: Setting, adapter: Path) -> float:
    rows = setting.workspace.eval_rows
    places = ["--model", setting.workspace.model, "--adapter", adapter, "--rows", rows]
    command = [sys.executable, HERE / "score.py", *places]
    return float(subprocess.run([*map(str, command)], check=True, stdout=subprocess.PIPE).stdout)


def _finish(process: "subprocess.Popen[bytes]", name: str) -> None:
    if process.wait():
        raise SystemExit(f"{name} ended with exit code {process.returncode}")


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _table(outcomes: list[Outcome]) -> str:
    head = ("system", "tokens/s", "tokens per CPU second", "to first step, s", "peak, MiB", "loss, first and last step",
            "held-out loss")  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|" + "--|" * len(head)]
    for one in outcomes:
        cells = (
            one.name, f"{one.tokens_per_second:.1f}", f"{one.tokens_per_cpu_second:.1f}",
            f"{one.seconds_to_first_step:.1f}", _memory(one), f"{one.first_loss:.3f}, {one.last_loss:.3f}",
            f"{one.held_out_loss:.3f}",
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _memory(outcome: Outcome) -> str:
    estimated = f" (estimate {outcome.estimated_mib:.0f})" if outcome.estimated_mib else ""
    return f"{outcome.peak_mib:.0f}{estimated}"


if __name__ == "__main__":
    sys.exit(main())
