"""The trials of a sweep under Ray Tune: placed, run, and told of as they go."""

from __future__ import annotations

import math
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.tune.search import Searcher

from popgpt.cluster.session import Resources
from popgpt.cluster.worker import try_out
from popgpt.config import UserError
from popgpt.sweep.asha import AshaScheduler
from popgpt.sweep.space import Sweep

Told = Callable[[str, str, dict[str, Any]], None]
SUPERVISOR = {"memory": 1.0}  # a byte: no core, so that its workers can have them all


class Witness(tune.Callback):  # type: ignore[misc]
    """Tells of each trial: (id, event, what), events being started, reported, ended and failed."""

    def __init__(self, tell: Told):
        self._tell = tell
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
        self._tell(trial.config["id"], "ended", {})

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        reason = self._errors.pop(trial.config["id"], "the trial's process died")
        self._tell(trial.config["id"], "failed", {"reason": reason})


class Source(Searcher):  # type: ignore[misc]
    """Gives Ray Tune the next (id, config) when there is room for another trial."""

    def __init__(self, trials: Iterator[tuple[str, dict[str, Any]]]):
        super().__init__()
        self._trials = trials

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, as for the Witness."""
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        for name, values in self._trials:
            return {"id": name, "values": values}
        return str(Searcher.FINISHED)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The record knows."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing, without the warning."""


def run_trials(
    sweep: Sweep,
    names: Sequence[str],
    config_of: Callable[[str], dict[str, Any]],
    workers: int,
    resources: Resources,
    scheduler: AshaScheduler | None,
    out_dir: Path,
    tell: Told,
) -> None:
    """Run the trials of these ids, in order. Returns when all have ended, or after Ctrl-C or SIGTERM.

    A trial's config is asked for when there is room for it. On a cluster that grows for what waits, random search has
    all wait at once, and a search that learns one at a time.

    A trial of one worker trains in the process that Ray Tune starts for it, and the next trial reuses the process. A
    trial of several is a small process that supervises a group of workers of its own; at most as many run as can
    have all their workers at once.

    Give it what `check_fits` has passed: Ray waits for what it does not have.
    """
    if not names:
        return
    asked = demand(sweep)
    share = {name: amount / workers for name, amount in asked.items()}
    at_once = concurrency(sweep, workers, resources) or (len(names) if sweep.search == "random" else None)
    bundle = SUPERVISOR if workers > 1 else {name: amount for name, amount in asked.items() if amount}
    trainable = tune.with_resources(tune.with_parameters(_trial, resources=share), PlacementGroupFactory([bundle]))
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=Source((name, config_of(name)) for name in names),
            num_samples=len(names),
            scheduler=scheduler,
            reuse_actors=True,  # which waits for a stopped trial's workers to end and give their cores back
            max_concurrent_trials=at_once,
            trial_dirname_creator=lambda trial: str(trial.config["id"]),
        ),
        run_config=tune.RunConfig(name="ray", storage_path=str(out_dir), callbacks=[Witness(tell)], verbose=0),
    )
    before = signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    try:
        tuner.fit()
    finally:
        signal.signal(signal.SIGTERM, before)
        shutil.rmtree(out_dir / "ray", ignore_errors=True)


def _trial(config: dict[str, Any], resources: dict[str, float]) -> None:
    try:
        try_out(config["values"], resources)
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
