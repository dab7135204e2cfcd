"""Where a stage says how far it is, and where the operator and Prometheus read it: GET /progress and GET /metrics.

The stage only sets fields under a lock; everything that costs time happens in the thread that answers a request. Must
not decide anything about the job, and answers nothing but GET.
"""

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Unpack

import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from finetune_api.contract import ProgressReport, StageRequest, thinned
from finetune_api.status import HISTORY_LIMIT, Checkpoint, HistoryPoint, Metrics, Progress, Stage
from finetune_trainer.run import ProgressUpdate

_log = structlog.get_logger(__name__)

TRAIN_GAUGES = {
    "loss": ("finetune_train_loss", "Mean training loss since the last report, in nats per supervised token."),
    "eval_loss": ("finetune_train_eval_loss", "Loss on the held-out rows, in nats per supervised token."),
    "learning_rate": ("finetune_train_learning_rate", "Current learning rate."),
    "tokens_per_second": ("finetune_train_tokens_per_second", "Real tokens per second, over all devices."),
    "grad_norm": ("finetune_train_grad_norm", "L2 norm of the gradient before clipping."),
    "peak_memory_bytes": ("finetune_train_peak_memory_bytes", "Peak of device memory, or of the process on CPU."),
}
"""Field of Metrics -> name and help of its gauge; a gauge without a value is absent, never 0.

Each has the label `adapter`: which of method.adapters was measured, empty in a job that makes one model.
"""


class StageProgress:
    """The latest report of one stage: a ProgressSink that also remembers. Safe to read from another thread."""

    def __init__(self, request: StageRequest) -> None:
        self._request = request
        self._lock = threading.Lock()
        self._progress = Progress(stage=request.stage)
        self._metrics: Metrics | None = None
        self._history: list[HistoryPoint] = []
        self._checkpoint: Checkpoint | None = None

    def update(self, step: int, total_steps: int, **told: Unpack[ProgressUpdate]) -> None:
        """As ProgressSink."""
        epoch, seconds_left, metrics = told.get("epoch"), told.get("seconds_left"), told.get("metrics")
        point, checkpoint = told.get("point"), told.get("checkpoint")
        before = self._progress
        adapter = told.get("adapter") or before.adapter
        if epoch is None and adapter == before.adapter:
            epoch = before.epoch
        with self._lock:
            self._progress = Progress(
                stage=self._request.stage,
                step=step,
                total_steps=total_steps,
                percent=min(100, 100 * step // total_steps) if total_steps > 0 else 0,
                epoch=epoch,
                adapter=adapter,
                seconds_left=before.seconds_left if seconds_left is None else seconds_left,
                updated_at=now(),
            )
            self._metrics = _merged(self._metrics, metrics)
            self._checkpoint = checkpoint or self._checkpoint
            if point is not None:
                self._history = thinned([*self._history, point], 2 * HISTORY_LIMIT)
        if metrics or point or checkpoint or self._progress.percent // 10 != before.percent // 10:
            self._log(metrics)

    def report(self) -> ProgressReport:
        """What GET /progress answers."""
        with self._lock:
            return ProgressReport(
                job_uid=self._request.job.uid,
                attempt=self._request.attempt,
                progress=self._progress,
                metrics=self._metrics,
                history=thinned(self._history, HISTORY_LIMIT),
                checkpoint=self._checkpoint,
            )

    def _log(self, metrics: Metrics | None) -> None:
        progress = self._progress
        values = metrics.model_dump(exclude_none=True) if metrics else {}
        if progress.seconds_left is not None:
            values["seconds_left"] = progress.seconds_left
        if progress.adapter is not None:
            values["adapter"] = progress.adapter
        _log.info("progress", step=progress.step, total_steps=progress.total_steps, percent=progress.percent, **values)


def now() -> str:
    """This second, as RFC 3339 in UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _merged(old: Metrics | None, new: Metrics | None) -> Metrics | None:
    """`new` over `old`; what was measured of another adapter does not stay."""
    if old is None or new is None:
        return new or old
    if old.adapter != new.adapter:
        return new
    return old.model_copy(update=new.model_dump(exclude_none=True))


class _Collector(Collector):
    """Turns the latest report into gauges when Prometheus asks."""

    def __init__(self, progress: StageProgress) -> None:
        self._progress = progress

    def collect(self) -> Iterator[Metric]:
        """Gauges of the stage, and of training where there is one."""
        report = self._progress.report()
        yield from _stage_gauges(report.progress)
        if report.progress.stage is Stage.TRAIN:
            yield from _train_gauges(report)


def _stage_gauges(progress: Progress) -> Iterator[Metric]:
    stage = str(progress.stage)
    yield _gauge("finetune_stage_steps_done", "Steps of this stage that are done.", progress.step, stage=stage)
    yield _gauge("finetune_stage_steps", "Steps of this stage; 0 while unknown.", progress.total_steps, stage=stage)
    if progress.seconds_left is not None:
        text = "Estimate of the time left in this stage."
        yield _gauge("finetune_stage_left_seconds", text, progress.seconds_left, stage=stage)


def _train_gauges(report: ProgressReport) -> Iterator[Metric]:
    progress, metrics = report.progress, report.metrics or Metrics()
    yield _gauge("finetune_train_step", "Optimizer steps that are done, of all adapters.", progress.step)
    if report.checkpoint is not None:
        text = "Optimizer step of the newest complete checkpoint, counted as finetune_train_step."
        yield _gauge("finetune_train_checkpoint_step", text, report.checkpoint.step)
    if progress.epoch is not None:
        text = "Passes over the train rows so far."
        yield _gauge("finetune_train_epoch", text, progress.epoch, adapter=progress.adapter or "")
    for field, (name, text) in TRAIN_GAUGES.items():
        value = getattr(metrics, field)
        if value is not None:
            yield _gauge(name, text, value, adapter=metrics.adapter or "")


def _gauge(name: str, text: str, value: float, **labels: str) -> Metric:
    gauge = GaugeMetricFamily(name, text, labels=[*labels])
    gauge.add_metric([*labels.values()], float(value))
    return gauge


class ProgressServer:
    """Serves one StageProgress until `close`. `port` 0 takes a free one; the address in use is in `address`."""

    def __init__(self, progress: StageProgress, host: str, port: int) -> None:
        registry = CollectorRegistry()
        registry.register(_Collector(progress))
        self._server = ThreadingHTTPServer((host, port), _handler(progress, registry))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="progress", daemon=True)
        self._thread.start()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that it listens on."""
        host, port = self._server.server_address[:2]
        return str(host), int(port)

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(progress: StageProgress, registry: CollectorRegistry) -> type[BaseHTTPRequestHandler]:
    pages: dict[str, tuple[str, Callable[[], str]]] = {
        "/progress": ("application/json", lambda: progress.report().model_dump_json(by_alias=True, exclude_none=True)),
        "/metrics": (CONTENT_TYPE_LATEST, lambda: generate_latest(registry).decode()),
    }

    class Handler(BaseHTTPRequestHandler):
        server_version = "finetune-trainer"
        sys_version = ""
        timeout = 10

        def do_GET(self) -> None:
            page = pages.get(self.path.partition("?")[0])
            if page is None:
                self.send_error(HTTPStatus.NOT_FOUND, f"only {' and '.join(pages)} are served")
                return
            content_type, render = page
            body = render().encode()
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _refuse(self) -> None:
            self.send_error(HTTPStatus.METHOD_NOT_ALLOWED, "only GET is answered")

        do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse  # noqa: N815 - names of the library

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - name of the library
            """Requests are not worth a line."""

    return Handler
