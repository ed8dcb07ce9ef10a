"""The trials of a sweep under Ray Tune: placed, run, and told of as they go."""

from __future__ import annotations

import math
import shutil
import signal
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.tune.search import Searcher

from popgpt.cluster.session import Resources
from popgpt.cluster.worker import try_out
from popgpt.config import UserError
from popgpt.sweep.asha import AshaScheduler, PromotingScheduler
from popgpt.sweep.space import Sweep

Told = Callable[[str, str, dict[str, Any]], None]
SUPERVISOR = {"memory": 1.0}  # a byte: no core, so that its workers can have them all


class Witness(tune.Callback):  # type: ignore[misc]
    """Tells of each trial: (id, event, what), events being started, reported, paused, ended and failed."""

    def __init__(self, tell: Told, scheduler: AshaScheduler | None):
        self._tell = tell
        self._scheduler = scheduler
        self._errors: dict[str, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray keeps a copy of a sweep on disk, which popgpt never goes back to."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell(trial.config["id"], "started", {})

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if "error" in result:
            self._errors[trial.config["id"]] = result["error"]
        else:
            self._tell(trial.config["id"], "reported", result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        paused = self._scheduler and self._scheduler.holds(trial.config["id"])
        self._tell(trial.config["id"], "paused" if paused else "ended", {})

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        reason = self._errors.pop(trial.config["id"], "the trial's process died")
        self._tell(trial.config["id"], "failed", {"reason": reason})


class Jobs(Searcher):  # type: ignore[misc]
    """Has Ray Tune run what the scheduler says is next.

    To Ray, a trial that is held at a rung has ended, and is another one, of the same `id`, when it goes on.
    """

    def __init__(self, names: Iterable[str], scheduler: AshaScheduler, tell: Told):
        super().__init__()
        self._idle = list(names)
        self._running: dict[str, str] = {}  # by Ray's id
        self._scheduler = scheduler
        self._tell = tell

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        name = self._scheduler.next(self._idle, running=bool(self._running))
        if name:
            self._idle.remove(name)
            self._running[trial_id] = name
            return {"id": name}
        if self._running:
            return None
        for given_up in self._idle:
            self._tell(given_up, "ended", {})
        self._idle.clear()
        return str(Searcher.FINISHED)

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        name = self._running.pop(trial_id)
        if self._scheduler.holds(name):
            self._idle.append(name)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: see Witness."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


def run_trials(
    sweep: Sweep,
    configs: Mapping[str, dict[str, Any]],
    workers: int,
    resources: Resources,
    scheduler: AshaScheduler | None,
    out_dir: Path,
    tell: Told,
) -> None:
    """Run each config as a trial; its id is its key. Returns when all have ended, or after Ctrl-C or SIGTERM.

    A trial of one worker trains in the process that Ray Tune starts for it, and the next trial reuses the process. A
    trial of several is a small process that supervises a group of workers of its own; at most as many run as can
    have all their workers at once.

    Give it what `check_fits` has passed: Ray waits for what it does not have.
    """
    if not configs:
        return
    asked = demand(sweep)
    share = {name: amount / workers for name, amount in asked.items()}
    settings = {name: {"values": values, "resources": share} for name, values in configs.items()}
    bundle = SUPERVISOR if workers > 1 else {name: amount for name, amount in asked.items() if amount}
    trainable = tune.with_resources(tune.with_parameters(_trial, settings=settings), PlacementGroupFactory([bundle]))
    witness = Witness(tell, scheduler)
    jobs = Jobs(configs, scheduler, tell) if isinstance(scheduler, PromotingScheduler) else None
    tuner = tune.Tuner(
        trainable,
        param_space={} if jobs else {"id": tune.grid_search(list(configs))},
        tune_config=tune.TuneConfig(
            scheduler=scheduler,
            search_alg=jobs,
            num_samples=-1 if jobs else 1,  # as many as the jobs are
            reuse_actors=True,  # which waits for a stopped trial's workers to end and give their cores back
            max_concurrent_trials=concurrency(sweep, workers, resources),
            trial_dirname_creator=lambda trial: str(trial.config["id"]),
        ),
        run_config=tune.RunConfig(name="ray", storage_path=str(out_dir), callbacks=[witness], verbose=0),
    )
    before = signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    try:
        tuner.fit()
    finally:
        signal.signal(signal.SIGTERM, before)
        shutil.rmtree(out_dir / "ray", ignore_errors=True)


def _trial(config: dict[str, Any], settings: Mapping[str, dict[str, Any]]) -> None:
    try:
        try_out(**settings[config["id"]])
    except Exception as error:
        words = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        tune.report({"error": words.splitlines()[0]})
        raise


def demand(sweep: Sweep) -> dict[str, float]:
    """CPU and GPU that one trial takes, all its workers together."""
    return {"CPU": sweep.resources.cpus_per_trial, "GPU": sweep.resources.gpus_per_trial}


def check_fits(sweep: Sweep, device: str, resources: Resources) -> None:
    """Raises UserError where a trial asks for more than this machine's Ray has, or for a GPU that it isn't given."""
    if device == "cuda" and not sweep.resources.gpus_per_trial:
        raise UserError("device='cuda' needs resources.gpus_per_trial above 0")
    has = {"CPU": resources.cpus, "GPU": resources.gpus}
    for name, amount in demand(sweep).items():
        if amount > has[name] and resources.local:
            raise UserError(
                f"resources.{name.lower()}s_per_trial={amount:g} should be at most the {has[name]:g} there are"
            )


def concurrency(sweep: Sweep, workers: int, resources: Resources) -> int | None:
    """How many trials run at once; None: as many as Ray places.

    On this machine as many as it holds. A cluster may grow: trials of one worker wait for their place by themselves;
    trials of several have a process each while they wait, so no more than fit now unless max_concurrent says so.
    """
    has = {"CPU": resources.cpus, "GPU": resources.gpus}
    fits = max(1, min(math.floor(has[name] / amount + 1e-9) for name, amount in demand(sweep).items() if amount))
    wanted = sweep.resources.max_concurrent
    if resources.local:
        return fits if wanted == "auto" else min(fits, wanted)
    if wanted == "auto":
        return fits if workers > 1 else None
    return wanted
