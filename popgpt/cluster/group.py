"""A group of workers that trains one run, seen from its driver. Same arguments and result as `fit` alone."""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from popgpt.cluster.channel import (
    Channel,
    ControllerStarted,
    Message,
    RowLogged,
    RunEnded,
    RunRefused,
    TextLogged,
    WorkersFailed,
    WorkerStarted,
    receive,
)
from popgpt.cluster.controller import DEATH, LOST, FailureReporter, announce_controller, describe_cause
from popgpt.cluster.process_group import ProcessGroup
from popgpt.cluster.ray_internals import ControllerStart, Trainer, remove_placement_groups_of
from popgpt.cluster.worker import train_worker
from popgpt.config import Config
from popgpt.metrics.row import Row, RunResult
from popgpt.storage.folder import Folder
from popgpt.text.errors import UserError
from popgpt.training import folder
from popgpt.training.memory import memory_advice

POLL_SECONDS = 0.5
SPARE_SECONDS = 10  # what the driver sees of a worker that hangs says more than the others' exchange that fails
GIVE_UP_SECONDS = 10.0
logger = logging.getLogger(__name__)


def train_on_workers(
    config: Config,
    resources: dict[str, float],
    report: Callable[[Row], None],
    should_stop: Callable[[], bool],
    settled: bool = False,
) -> RunResult:
    """Run `fit` on config.workers workers under Ray Train; return what result.json holds.

    Workers that are lost or hang are started again, as often as config.max_failures says, and go on from the last
    state; with config.min_workers they may be fewer then.

    Args:
        resources: CPU and GPU of each worker.
        report: called here with each logged row, once.
        should_stop: asked here; the workers then save their state and end.
        settled: as for `fit`.
    Raises:
        UserError: as `fit`, told by the worker; or workers failed too often.
        KeyboardInterrupt: it was to stop before the workers were there.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    channel = Channel.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
    scratch = tempfile.mkdtemp(prefix="popgpt-")
    thread = TrainerThread(_make_trainer(config, resources, channel, scratch, settled))
    monitor = GroupMonitor(config, report)
    try:
        while True:
            ended = not thread.running()
            stopping = should_stop()
            if stopping:
                channel.stop.remote()
            messages, silence = receive(channel)
            for message in messages:
                monitor.handle(message)
            monitor.kill_if_hanging(silence)
            if ended or monitor.refusal or (stopping and not monitor.started):
                break
            time.sleep(POLL_SECONDS)
    finally:
        thread.end(monitor.controller)
        ray.kill(channel)
        shutil.rmtree(scratch, ignore_errors=True)
    return monitor.result_or_raise(thread.failure, stopping)


class GroupMonitor:
    """What the driver knows of a group, from the messages of its processes."""

    def __init__(self, config: Config, report: Callable[[Row], None]):
        self.started = False
        self.refusal: str | None = None
        self.controller: Any = None
        self._config = config
        self._report = report
        self._workers: list[Any] = []
        self._reported = 0
        self._failure: tuple[str, int] | None = None  # the cause, and after which reported iteration
        self._result: RunResult | None = None

    def handle(self, message: Message) -> None:
        """Report a row, log a text, and keep what else a message says."""
        match message:
            case RowLogged(row):
                if row["iteration"] > self._reported:
                    self._reported = row["iteration"]
                    self._report(row)
            case TextLogged(level, text):
                logger.log(level, text)
            case RunEnded(result):
                self._result = result
            case RunRefused(text):
                self.refusal = text
            case ControllerStarted(controller):
                self.controller = controller
            case WorkerStarted(worker):
                self.started = True
                self._workers.append(worker)
            case WorkersFailed(cause):
                self._handle_failure(cause)

    def _handle_failure(self, cause: str) -> None:
        """Warn of it. One that comes twice in the same way, with no row between, will come again and again."""
        self.started = False
        self._workers.clear()
        if not self.refusal:
            logger.warning("the workers failed: %s", cause)
        if cause not in (DEATH, LOST) and self._failure == (cause, self._reported):
            self.refusal = f"the workers failed twice in the same way: {cause}{describe_remedy(cause, self._config)}"
        self._failure = (cause, self._reported)

    def kill_if_hanging(self, silence: float) -> None:
        """Kill the workers if nothing was heard of them for longer than worker_timeout. Ray then starts them again."""
        if self._workers and silence > self._config.worker_timeout and self._result is None:
            logger.warning("no iteration for %.0f seconds: a worker hangs", self._config.worker_timeout)
            for worker in self._workers:
                ray.kill(worker)
            self._workers.clear()

    def result_or_raise(self, failure: BaseException | None, stopping: bool) -> RunResult:
        """Return the result, or raise the exception that says why there is none. `failure` is Ray Train's."""
        if self.refusal:
            raise UserError(self.refusal)
        if self._result:
            return self._result
        if stopping or failure is None:
            raise KeyboardInterrupt
        raise UserError(describe_failure(failure, self._config)) from failure


def describe_failure(failure: BaseException, config: Config) -> str:
    """Return one line for a group that ended without a result. Ray's whole account goes to out_dir/error.txt."""
    run_folder = Folder(config.out_dir)
    account = str(failure).strip()
    last = None
    with suppress(OSError):
        run_folder.write(folder.ERROR, account.encode())
        last = folder.last_state(run_folder)
    lines = [line.strip() for line in account.splitlines() if line.strip()]
    cause = describe_cause(failure.worker_failures) if isinstance(failure, WorkerGroupError) else lines[-1]
    on = "; the same command goes on from the last state" if last else ""
    return (
        f"the workers failed: {cause}{describe_remedy(cause, config)}{on}; details are in {run_folder.at(folder.ERROR)}"
    )


def describe_remedy(cause: str, config: Config) -> str:
    """Return what to lower if it is memory that workers failed of, or may be."""
    if cause == DEATH:
        return f", maybe {memory_advice(config)}"
    return f": {memory_advice(config)}" if "memory" in cause else ""


class TrainerThread:
    """Trainer.fit in a thread, so that its own handling of Ctrl-C, which kills the workers, stays out."""

    def __init__(self, trainer: Trainer):
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._fit, args=(trainer,), daemon=True)
        self._thread.start()

    def _fit(self, trainer: Trainer) -> None:
        try:
            trainer.fit()
        except BaseException as error:
            self.failure = error

    def running(self) -> bool:
        return self._thread.is_alive()

    def end(self, controller: Any) -> None:
        """Abort what still runs, and kill the controller: one that waits for a place hears nothing of the abort, and
        an actor that exits by itself waits for its other methods, and may lock itself up (`process.limit_exit_time`).
        """
        if controller:
            if self.running():
                with suppress(ray.exceptions.RayError):  # it ended, or is about to, or does not answer
                    ray.get(controller.abort.remote(), timeout=GIVE_UP_SECONDS)
            ray.kill(controller)
            remove_placement_groups_of(controller)
        self._thread.join(GIVE_UP_SECONDS)


def _make_trainer(config: Config, resources: dict[str, float], channel: Any, scratch: str, settled: bool) -> Trainer:
    use_gpu = bool(resources.get("GPU"))
    settings = {
        "config": config.model_dump(),
        "channel": channel,
        "cpus": resources["CPU"],
        "gpu": use_gpu,
        "settled": settled,
        "token": folder.mark(Folder(config.out_dir)),
    }
    workers = (config.min_workers, config.workers) if config.min_workers else config.workers
    return Trainer(
        train_worker,
        train_loop_config=settings,
        backend_config=ProcessGroup(timeout_s=int(config.worker_timeout) + SPARE_SECONDS),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=use_gpu, resources_per_worker=resources),
        run_config=RunConfig(
            name=uuid.uuid4().hex,
            storage_path=scratch,
            failure_config=FailureConfig(max_failures=config.max_failures),
            callbacks=[ControllerStart(partial(announce_controller, channel)), FailureReporter(channel)],
        ),
    )
