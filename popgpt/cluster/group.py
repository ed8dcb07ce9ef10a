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
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api.exceptions import WorkerGroupError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from popgpt.cluster.channel import Channel
from popgpt.cluster.controller import DEATH, LOST, Failures, Handle, cause, free_places
from popgpt.cluster.process_group import ProcessGroup
from popgpt.cluster.session import grows
from popgpt.cluster.worker import work
from popgpt.config import Config
from popgpt.metrics.row import Row, RunResult
from popgpt.storage.folder import Folder
from popgpt.text.errors import UserError
from popgpt.training import folder
from popgpt.training.memory import memory_advice

POLL_SECONDS = 0.5
SPARE_SECONDS = 10  # what the driver sees of a worker that hangs says more than the others' exchange that fails
GIVE_UP_SECONDS = 10.0
UNUSED = (
    # Its process outlives all without a dashboard. `trials.free_abandoned_places` does in a sweep what it is for.
    "PlacementGroupCleanerCallback",
    "DatasetsCallback",  # of Ray Data's datasets
)
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
    group = Group(_make_trainer(config, resources, channel, scratch, settled))
    listener = Listener(config, report)
    try:
        while True:
            ended = not group.running()
            stopping = should_stop()
            if stopping:
                channel.stop.remote()
            messages, silence = ray.get(channel.pull.remote())
            for message in messages:
                listener.take(message)
            listener.watch(silence)
            if ended or listener.error or (stopping and not listener.begun):
                break
            time.sleep(POLL_SECONDS)
    finally:
        group.end(listener.controller)
        ray.kill(channel)
        shutil.rmtree(scratch, ignore_errors=True)
    return listener.outcome(group.failure, stopping)


class Listener:
    """What the driver makes of what the workers and their controller say."""

    def __init__(self, config: Config, report: Callable[[Row], None]):
        self.begun = False
        self.error: str | None = None
        self.controller: Any = None
        self._config = config
        self._report = report
        self._workers: list[Any] = []
        self._reported = 0
        self._failed: tuple[str, int] | None = None  # why, and after which reported iteration
        self._result: RunResult | None = None

    def take(self, message: dict[str, Any]) -> None:
        """Take in a message: a row, the result, an error, what was logged, or what happened to the group."""
        ((kind, what),) = message.items()
        if kind == "row" and what["iteration"] > self._reported:
            self._reported = what["iteration"]
            self._report(what)
        elif kind == "logged":
            logger.log(*what)
        elif kind == "result":
            self._result = what
        elif kind == "error":
            self.error = what
        elif kind == "controller":
            self.controller = what
        elif kind == "begun":
            self.begun = True
            self._workers.append(what)
        elif kind == "failed":
            self.begun = False
            self._workers.clear()
            if not self.error:
                logger.warning("the workers failed: %s", what)
            if what not in (DEATH, LOST) and self._failed == (what, self._reported):
                self.error = f"the workers failed twice in the same way: {what}{advice(what, self._config)}"
            self._failed = (what, self._reported)

    def watch(self, silence: float) -> None:
        """Kill the workers where nothing was heard of them for too long: Ray then starts them again."""
        if self._workers and silence > self._config.worker_timeout and self._result is None:
            logger.warning("no iteration for %.0f seconds: a worker hangs", self._config.worker_timeout)
            for worker in self._workers:
                ray.kill(worker)
            self._workers.clear()

    def outcome(self, failure: BaseException | None, stopping: bool) -> RunResult:
        """The result, or the exception that stands for there being none."""
        if self.error:
            raise UserError(self.error)
        if self._result:
            return self._result
        if stopping or failure is None:
            raise KeyboardInterrupt
        raise UserError(describe_failure(failure, self._config)) from failure


def describe_failure(failure: BaseException, config: Config) -> str:
    """One line for a group that ended without a result; Ray's whole account goes to out_dir/error.txt."""
    run_folder = Folder(config.out_dir)
    account = str(failure).strip()
    last = None
    with suppress(OSError):
        run_folder.write(folder.ERROR, account.encode())
        last = folder.last_state(run_folder)
    lines = [line.strip() for line in account.splitlines() if line.strip()]
    what = cause(failure.worker_failures) if isinstance(failure, WorkerGroupError) else lines[-1]
    on = "; the same command goes on from the last state" if last else ""
    return f"the workers failed: {what}{advice(what, config)}{on}; details are in {run_folder.at(folder.ERROR)}"


def advice(what: str, config: Config) -> str:
    """What to lower, where it is memory that workers failed of, or may be."""
    if what == DEATH:
        return f", maybe {memory_advice(config)}"
    return f": {memory_advice(config)}" if "memory" in what else ""


class Group:
    """TorchTrainer.fit in a thread, so that its own handling of Ctrl-C, which kills the workers, stays out."""

    def __init__(self, trainer: TorchTrainer):
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._fit, args=(trainer,), daemon=True)
        self._thread.start()

    def _fit(self, trainer: TorchTrainer) -> None:
        try:
            trainer.fit()
        except BaseException as error:
            self.failure = error

    def running(self) -> bool:
        return self._thread.is_alive()

    def end(self, controller: Any) -> None:
        """Abort what still runs, and kill the controller: one that waits for a place hears nothing of the abort, and
        an actor that exits by itself waits for its other methods, and may lock itself up (`session.exit_surely`).
        """
        if controller:
            if self.running():
                with suppress(ray.exceptions.RayError):  # it ended, or is about to, or does not answer
                    ray.get(controller.abort.remote(), timeout=GIVE_UP_SECONDS)
            ray.kill(controller)
            creator = controller._actor_id.binary()
            free_places(lambda place: place.creator_actor_id == creator)
        self._thread.join(GIVE_UP_SECONDS)


class Unannounced(FixedScalingPolicy):  # type: ignore[misc]
    """Asks for workers without telling an autoscaler, where there is none. Ray's would start a process for it, which
    imports for seconds, and wait for that before it starts the workers.
    """

    def after_controller_start(self, train_run_context: Any) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass


class Trainer(TorchTrainer):  # type: ignore[misc]
    """Without what costs a process for each group in Ray Train 2.60 and serves none of popgpt's."""

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [each for each in callbacks if type(each).__name__ not in UNUSED]

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        if type(parts["scaling_policy"]) is FixedScalingPolicy and not grows():
            parts["scaling_policy"] = Unannounced(self.scaling_config)
        return super()._initialize_and_run_controller(**parts)


def _make_trainer(
    config: Config, resources: dict[str, float], channel: Any, scratch: str, settled: bool
) -> TorchTrainer:
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
        work,
        train_loop_config=settings,
        torch_config=ProcessGroup(timeout_s=int(config.worker_timeout) + SPARE_SECONDS),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=use_gpu, resources_per_worker=resources),
        run_config=RunConfig(
            name=uuid.uuid4().hex,
            storage_path=scratch,
            failure_config=FailureConfig(max_failures=config.max_failures),
            callbacks=[Handle(channel), Failures(channel)],
        ),
    )
