"""What a sweep costs beside its training: `python -m benchmarks.sweeps [repetitions]`.

Eight trials of a tiny model, one worker each, as many at a time as there are cores. The same trials by turns: as
popgpt runs them (processes are reused, a trial trains in its own), through a plain Tuner without reuse, and each
through a TorchTrainer of its own. Printed are the seconds beyond Ray's start, and of popgpt those beyond training too.
Nothing is asserted; the bar for popgpt is 6 seconds.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import yaml
from ray import tune

from benchmarks.trainees import machine
from benchmarks.workers import spread
from popgpt.cluster.group import train_on_workers
from popgpt.cluster.session import Resources, connected
from popgpt.config import make_config
from popgpt.data.dataset import ensure_dataset
from popgpt.storage.folder import Folder
from popgpt.sweep.draws import sample
from popgpt.sweep.placement import place
from popgpt.sweep.schema import Sweep
from popgpt.sweep.space import load_sweep
from popgpt.sweep.trial_process import train_trial
from popgpt.sweep.trials import run_trials
from popgpt.terminal.program import run
from popgpt.training.folder import read_result

TRIALS = 8
BASE = {
    **{"dataset": "calculator-tiny", "train_lines": 500, "val_lines": 60, "test_lines": 60, "block_size": 32},
    **{"n_layer": 1, "d_model": 16, "d_head": 8, "batch_size": 4, "max_iters": 2, "eval_interval": 2, "eval_iters": 1},
    **{"device": "cpu", "mlflow_log": False},
}
SPACE = {"config": "base.yaml", "space": {"learning_rate": {"loguniform": [1e-3, 1e-2]}}, "num_samples": TRIALS}
SHARE = {"CPU": 1.0, "GPU": 0.0}
Values = dict[str, dict[str, Any]]


def by_popgpt(sweep: Sweep, configs: Values, resources: Resources, out_dir: Path) -> None:
    placement = place(sweep.resources, resources, 1, "cpu", TRIALS)
    run_trials(list(configs), configs.__getitem__, placement, None, out_dir, lambda name, event: None, all_known=True)


def by_tuner(sweep: Sweep, configs: Values, resources: Resources, out_dir: Path) -> None:
    def trial(config: dict[str, Any]) -> None:
        train_trial(configs[config["id"]], SHARE)

    tuned(trial, {"CPU": 1}, configs, out_dir)


def by_trainers(sweep: Sweep, configs: Values, resources: Resources, out_dir: Path) -> None:
    def trial(config: dict[str, Any]) -> None:
        result = train_on_workers(make_config(configs[config["id"]]), {"CPU": 1}, lambda row: None, lambda: False)
        tune.report(result)

    tuned(trial, {"memory": 1.0}, configs, out_dir)


def tuned(trial: Callable[[dict[str, Any]], None], resources: dict[str, float], configs: Values, out_dir: Path) -> None:
    """Every config through a plain Tuner."""
    tune.Tuner(
        tune.with_resources(trial, resources),
        param_space={"id": tune.grid_search(list(configs))},
        tune_config=tune.TuneConfig(max_concurrent_trials=os.cpu_count()),
        run_config=tune.RunConfig(name="ray", storage_path=str(out_dir), verbose=0),
    ).fit()


def measured(way: Callable[..., None], sweep: Sweep, folder: Path, resources: Resources) -> tuple[float, float]:
    """(seconds that all trials took, seconds that they trained)."""
    out_dir = folder / way.__name__
    places = {f"{number:04d}": out_dir / "trials" / f"{number:04d}" for number in range(TRIALS)}
    samples = zip(places.items(), sample(sweep), strict=True)
    configs = {
        name: sweep.config(values).model_copy(update={"out_dir": str(at), "data_dir": str(folder)}).model_dump()
        for (name, at), values in samples
    }
    started = time.perf_counter()
    way(sweep, configs, resources, out_dir)
    took = time.perf_counter() - started
    results = [read_result(Folder(at)) for at in places.values()]
    assert all(result["status"] == "completed" for result in results)
    shutil.rmtree(out_dir)
    return took, sum(result["wall_seconds"] for result in results) / min(TRIALS, int(resources.cpus))


def main(words: list[str]) -> None:
    repetitions = int(words[0]) if words else 1
    ways = (by_popgpt, by_tuner, by_trainers)
    took: dict[str, list[tuple[float, float]]] = {way.__name__: [] for way in ways}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "base.yaml").write_text(yaml.safe_dump(BASE | {"data_dir": name}))
        (folder / "space.yaml").write_text(yaml.safe_dump(SPACE | {"asha": None}))
        sweep = load_sweep(folder / "space.yaml")
        ensure_dataset(sweep.config())
        print(f"before: {machine()}", flush=True)
        for _ in range(repetitions):
            for way in ways:
                with connected() as resources:
                    took[way.__name__].append(measured(way, sweep, folder, resources))
                print(f"{way.__name__}: {took[way.__name__][-1][0]:.1f} s, {machine()}", flush=True)
    for name, times in took.items():
        print(
            f"{name}: {spread([whole for whole, _ in times])} s beyond Ray's start, "
            f"of which training {spread([trained for _, trained in times])} s"
        )


if __name__ == "__main__":
    run(lambda _: main(sys.argv[1:]))
