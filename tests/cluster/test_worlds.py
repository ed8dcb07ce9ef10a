"""The number of workers, and how a batch is cut, change nothing but the last bits of a sum."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from popgpt.cluster import session
from tests.cluster.test_group import Make, losses, train
from tests.training.test_loop import run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def resources() -> Iterator[session.Resources]:
    with session.connected() as resources:
        yield resources


@pytest.mark.parametrize(
    ("alone", "shared"),
    [
        ((7, 1), {1: (1, 7), 2: (7, 1), 3: (1, 7), 4: (7, 1)}),
        ((10, 1), {1: (5, 2), 2: (2, 5), 3: (5, 2), 4: (2, 5)}),
    ],
    ids=["7 rows", "10 rows"],
)
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_50_losses_are_those_of_one_process(
    tiny: Make,
    tmp_path: Path,
    resources: session.Resources,
    alone: tuple[int, int],
    shared: dict[int, tuple[int, int]],
    optimizer: str,
) -> None:
    """Each number of workers cuts the rows of an iteration in its own way, unevenly; dropout is on.

    Args:
        alone: batch_size and gradient_accumulation_steps of the one process.
        shared: those of each number of workers.
    """
    shape = {"max_iters": 50, "eval_interval": 50, "dropout": 0.1, "optimizer": optimizer}
    whole = tiny(**shape, batch_size=alone[0], gradient_accumulation_steps=alone[1])
    run(whole)
    for workers, (rows, steps) in shared.items():
        cut = {"batch_size": rows, "gradient_accumulation_steps": steps, "out_dir": str(tmp_path / f"of{workers}")}
        config = tiny(**shape, **cut, workers=workers)
        assert train(config, resources)["world_size"] == workers
        assert losses(config) == pytest.approx(losses(whole), rel=1e-5)
        assert len(losses(config)) == 50
