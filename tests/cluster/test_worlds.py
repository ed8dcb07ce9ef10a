"""The number of workers, and how a batch is cut, change nothing but the last bits of a sum."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from popgpt.cluster import session
from tests.cluster.test_group import Make, losses, train
from tests.samples import sample_and_whole
from tests.training.test_loop import run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def resources() -> Iterator[session.Resources]:
    with session.connected() as resources:
        yield resources


# batch_size and gradient_accumulation_steps of each number of workers, by the rows of an iteration
CUTS = {
    7: {1: (1, 7), 2: (7, 1), 3: (1, 7), 4: (7, 1)},
    10: {1: (5, 2), 2: (2, 5), 3: (5, 2), 4: (2, 5)},
}
SAMPLE = [("muon", 7, [2]), ("adamw", 10, [4])]


@pytest.mark.parametrize(
    ("optimizer", "rows", "workers"),
    sample_and_whole(SAMPLE, [(optimizer, rows, [1, 2, 3, 4]) for optimizer in ("muon", "adamw") for rows in CUTS]),
)
def test_50_losses_are_those_of_one_process(
    tiny: Make, tmp_path: Path, resources: session.Resources, optimizer: str, rows: int, workers: list[int]
) -> None:
    """Each number of workers cuts the rows of an iteration in its own way, unevenly; dropout is on."""
    shape = {"max_iters": 50, "eval_interval": 50, "dropout": 0.1, "optimizer": optimizer}
    whole = tiny(**shape, batch_size=rows, gradient_accumulation_steps=1)
    run(whole)
    for number in workers:
        batch_size, steps = CUTS[rows][number]
        cut = {"batch_size": batch_size, "gradient_accumulation_steps": steps, "workers": number}
        config = tiny(**shape, **cut, out_dir=str(tmp_path / f"of{number}"))
        assert train(config, resources)["world_size"] == number
        assert losses(config) == pytest.approx(losses(whole), rel=1e-5)
        assert len(losses(config)) == 50
