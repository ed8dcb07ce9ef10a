"""How many trials run at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from popgpt.cluster.session import Resources
from popgpt.cluster.trials import concurrency
from popgpt.sweep.space import Sweep, load_sweep

LAPTOP = Resources(cpus=8, gpus=0, local=True)
GROWING = Resources(cpus=4, gpus=0, local=False)


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    (tmp_path / "base.yaml").write_text("max_iters: 100\n")
    (tmp_path / "space.yaml").write_text("config: base.yaml\nspace: {dropout: {uniform: [0, 0.1]}}\nasha: null\n")
    return load_sweep(tmp_path / "space.yaml")


def asking(sweep: Sweep, cpus: float, gpus: float = 0, most: object = "auto") -> Sweep:
    update = {"cpus_per_trial": cpus, "gpus_per_trial": gpus, "max_concurrent": most}
    return Sweep(**{**vars(sweep), "resources": sweep.resources.model_copy(update=update)})


def test_this_machine_runs_as_many_as_it_holds(sweep: Sweep) -> None:
    assert concurrency(asking(sweep, 2), 1, LAPTOP) == 4
    assert concurrency(asking(sweep, 3), 3, LAPTOP) == 2
    assert concurrency(asking(sweep, 2, most=3), 1, LAPTOP) == 3
    assert concurrency(asking(sweep, 2, most=30), 1, LAPTOP) == 4
    assert concurrency(asking(sweep, 0.1), 1, Resources(cpus=1, gpus=0, local=True)) == 10


def test_a_growing_cluster_is_left_to_place_trials_as_nodes_come(sweep: Sweep) -> None:
    assert concurrency(asking(sweep, 4, 1), 1, GROWING) is None
    assert concurrency(asking(sweep, 4, 1, most=8), 1, GROWING) == 8
    assert concurrency(asking(sweep, 4, 1), 2, GROWING) == 1
