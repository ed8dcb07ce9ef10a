"""A group of workers that trains one run, seen from its driver. Same arguments and result as `fit` alone."""

from __future__ import annotations

import shutil
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from popgpt.cluster.channel import Channel
from popgpt.cluster.worker import work
from popgpt.config import Config, UserError
from popgpt.files import write_atomic
from popgpt.training.folder import ERROR, holds_state
from popgpt.training.loop import Row

POLL_SECONDS = 0.2


def train_on_workers(
    config: Config, resources: dict[str, float], report: Callable[[Row], None], should_stop: Callable[[], bool]
) -> Row:
    """Run `fit` on config.workers workers under Ray Train; return what result.json holds.

    Args:
        resources: CPU and GPU of each worker.
        report: called here with each logged row.
        should_stop: asked here; the workers then save their state and end.
    Raises:
        UserError: as `fit`, told by the worker; or a worker died.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    channel = Channel.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
    scratch = Path(config.out_dir) / f"ray-{uuid.uuid4().hex[:8]}"
    group = _Group(_make_trainer(config, resources, channel, scratch))
    result: Row | None = None
    try:
        while True:
            ended = not group.running()
            if should_stop():
                channel.stop.remote()
            for message in ray.get(channel.pull.remote()):
                if "error" in message:
                    raise UserError(message["error"])
                if "row" in message:
                    report(message["row"])
                result = message.get("result", result)
            if ended:
                break
            time.sleep(POLL_SECONDS)
    finally:
        channel.stop.remote()
        group.wait()
        ray.kill(channel)
        shutil.rmtree(scratch, ignore_errors=True)
    if result is None:
        raise UserError(describe_failure(group.failure, Path(config.out_dir))) from group.failure
    return result


def describe_failure(failure: BaseException | None, out_dir: Path) -> str:
    """One line for a group that ended without a result; Ray's whole account goes to out_dir/error.txt."""
    account = str(failure or "the workers ended without a result").strip()
    write_atomic(out_dir / ERROR, account.encode())
    lines = [line.strip() for line in account.splitlines() if line.strip()]
    died = any("ActorDiedError" in line or "died unexpectedly" in line for line in lines)
    what = "a worker's process died" if died else lines[-1]
    on = "; go on with init_from=resume and the same out_dir" if holds_state(out_dir) else ""
    return f"the workers failed: {what}{on}; details are in {out_dir / ERROR}"


class _Group:
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

    def wait(self) -> None:
        self._thread.join()


def _make_trainer(config: Config, resources: dict[str, float], channel: Any, scratch: Path) -> TorchTrainer:
    use_gpu = bool(resources.get("GPU"))
    settings = {"config": config.model_dump(), "channel": channel, "cpus": resources["CPU"], "gpu": use_gpu}
    return TorchTrainer(
        work,
        train_loop_config=settings,
        scaling_config=ScalingConfig(num_workers=config.workers, use_gpu=use_gpu, resources_per_worker=resources),
        run_config=RunConfig(name=scratch.name, storage_path=str(scratch.parent)),
    )
