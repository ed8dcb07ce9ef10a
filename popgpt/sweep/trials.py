"""Runs the trials of a sweep under Ray Tune, and reports each event of theirs."""

from __future__ import annotations

import logging
import os
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.search import Searcher

from popgpt.cluster.ray_internals import DIED, OUT_OF_MEMORY, patch_tune, remove_abandoned_placement_groups
from popgpt.config import Config, make_config
from popgpt.sweep.asha import AshaScheduler
from popgpt.sweep.events import Ended, Event, Failed, Paused, Reported, Started
from popgpt.sweep.placement import Placement
from popgpt.sweep.trial_process import measure_gpu_memory, run_trial
from popgpt.text.errors import UserError
from popgpt.training.memory import memory_advice

logger = logging.getLogger(__name__)
OnEvent = Callable[[str, Event], None]
SUPERVISOR = {"memory": 1.0}  # a byte: no core, so that its workers can have them all


patch_tune()


class TrialCallback(tune.Callback):  # type: ignore[misc]
    """Calls `on_event(id, event)` with each event of a trial that Ray Tune tells its callbacks."""

    def __init__(self, on_event: OnEvent, config_of: Callable[[str], dict[str, Any]], scheduler: AshaScheduler | None):
        self._on_event = on_event
        self._config_of = config_of
        self._scheduler = scheduler
        self._errors: dict[str, str] = {}
        self._supervisor_died = False

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray keeps a copy of a sweep on disk, which popgpt never goes back to."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._on_event(trial.config["id"], Started())

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if "error" in result:
            self._errors[trial.config["id"]] = result["error"]
        else:
            self._on_event(trial.config["id"], Reported(result["rows"]))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        name, scheduler = trial.config["id"], self._scheduler
        self._on_event(name, Paused() if scheduler and scheduler.holds(name) else ended(name, scheduler))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        name = trial.config["id"]
        reason = self._errors.pop(name, None)
        if reason is None:
            config = make_config(self._config_of(name))
            self._supervisor_died |= config.workers > 1  # a trial of one worker supervises no group
            reason = cause_of_death(Path(trial.error_file).read_text(), config)
        self._on_event(name, Failed(reason))

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self._supervisor_died:
            remove_abandoned_placement_groups()


class RecordSearcher(Searcher):  # type: ignore[misc]
    """Suggests to Ray Tune the trial that the scheduler says is next; without a scheduler, each in its order.

    To Ray, a trial that is held at a rung has ended, and is another one, of the same `id`, when it goes on.
    """

    def __init__(
        self,
        names: Sequence[str],
        config_of: Callable[[str], dict[str, Any]],
        scheduler: AshaScheduler | None,
        on_event: OnEvent,
    ):
        super().__init__()
        self._idle = list(names)
        self._running: dict[str, str] = {}  # by Ray's id
        self._config_of = config_of
        self._scheduler = scheduler
        self._on_event = on_event

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self._scheduler:
            name = self._scheduler.next(self._idle, running=bool(self._running))
        else:
            name = next(iter(self._idle), None)
        if name:
            self._idle.remove(name)
            self._running[trial_id] = name
            return {"id": name, "values": self._config_of(name)}
        if self._running:
            return None
        for given_up in self._idle:
            self._on_event(given_up, ended(given_up, self._scheduler))
        self._idle.clear()
        return str(Searcher.FINISHED)

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        name = self._running.pop(trial_id)
        if self._scheduler and self._scheduler.holds(name):
            self._idle.append(name)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: see TrialCallback."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


def ended(name: str, scheduler: AshaScheduler | None) -> Ended:
    """Return the event that a trial has ended, with the scheduler's reason if that stopped it."""
    return Ended(scheduler.reason(name) if scheduler else None)


def run_trials(
    names: Sequence[str],
    config_of: Callable[[str], dict[str, Any]],
    placement: Placement,
    scheduler: AshaScheduler | None,
    out_dir: Path,
    on_event: OnEvent,
    all_known: bool,
) -> bool:
    """Run the trials of these ids, in the order that the scheduler says, until all have ended.

    Returns whether Ctrl-C or SIGTERM ended them before.

    A trial's config is asked for when there is room for it. On a cluster that grows for what waits, all wait at once
    if their configs are all known before the first starts (`all_known`), and else one at a time.

    A trial of one worker trains in the process that Ray Tune starts for it, and the next trial reuses the process. A
    trial of several is a small process that supervises a group of workers of its own; at most as many run as can
    have all their workers at once.
    """
    if not names:
        return False
    each = {"resources": placement.each, "memory": placement.memory}
    bundle = SUPERVISOR if placement.workers > 1 else {name: part for name, part in placement.each.items() if part}
    trainable = tune.with_resources(tune.with_parameters(run_trial, **each), tune.PlacementGroupFactory([bundle]))
    callback = TrialCallback(on_event, config_of, scheduler)
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            scheduler=scheduler,
            search_alg=RecordSearcher(names, config_of, scheduler, on_event),
            num_samples=-1,  # as many as the jobs are
            reuse_actors=True,  # which waits for a stopped trial's workers to end and give their cores back
            max_concurrent_trials=placement.at_once or (len(names) if all_known else None),
            trial_dirname_creator=lambda trial: str(trial.config["id"]),
        ),
        run_config=tune.RunConfig(name="ray", storage_path=str(out_dir), callbacks=[callback], verbose=0),
    )
    try:
        return fit_until_signalled(tuner)
    finally:
        shutil.rmtree(out_dir / "ray", ignore_errors=True)


def fit_until_signalled(tuner: tune.Tuner) -> bool:
    """Call `tuner.fit()`, which Ctrl-C and SIGTERM end. Returns whether one of them came.

    Ray leaves its handlers in place, where they take a signal for a sweep that has ended; but that of SIGINT is gone
    once it was called.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "0"  # whatever was set: the answer rests on Ray's handler
    try:
        tuner.fit()
    finally:
        found = {number: signal.signal(number, handler) for number, handler in before.items()}
    return found[signal.SIGINT] == before[signal.SIGINT]


def probe_gpu(config: Config) -> dict[str, int] | None:
    """Return what a trial takes of a GPU, as `probe.gpu_memory` measures it; None, with a warning, if that fails.

    It runs in a process of its own: the driver would keep what CUDA takes as long as the sweep lasts.
    """
    measured = ray.remote(num_gpus=1, max_calls=1)(measure_gpu_memory).remote(config.model_dump())
    try:
        return dict(ray.get(measured))
    except (ray.exceptions.RayError, UserError) as error:
        said = str(error).strip().splitlines()[-1]
        logger.warning("what the largest trial takes of a GPU could not be probed: %s", said)
        return None


def cause_of_death(account: str, config: Config) -> str:
    """Return in one line why a trial failed that could not say so itself. `account`: Ray Tune's text of the error.

    Ray knows what its own memory monitor killed. Of what the kernel killed, for want of memory most often, it knows
    only that it is gone.
    """
    if OUT_OF_MEMORY in account:
        return f"the trial's process was killed: {memory_advice(config)}"
    if DIED.search(account):
        return f"the trial's process died, maybe {memory_advice(config)}"
    return account.strip().splitlines()[-1]
