from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from popgpt.config import Config
from popgpt.data.batches import make_rows
from popgpt.data.dataset import ensure_dataset
from popgpt.training.memory import largest
from popgpt.training.probe import probe

Make = Callable[..., Config]


def test_a_probe_measures_and_leaves_nothing(tiny: Make) -> None:
    config = tiny()
    dataset = ensure_dataset(config)
    cost = probe(config, dataset, make_rows(config, dataset, "train", config.seed))
    assert cost.keys() == {"iteration", "evaluation", "memory"}
    assert all(value > 0 for value in cost.values())
    assert not Path(config.out_dir).exists()


def test_the_largest_config_is_that_of_the_largest_activations(tiny: Make) -> None:
    wide, deep, long = tiny(d_model=64), tiny(n_layer=3), tiny(block_size=48, batch_size=16)
    assert largest([tiny(), wide, deep]) == wide
    assert largest([wide, deep, long]) == long
