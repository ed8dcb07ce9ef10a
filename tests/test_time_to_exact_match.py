"""benchmarks/time_to_exact_match.py: what it counts, what it leaves out, and that its peers learn the same lines."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import time_to_exact_match as benchmark
from benchmarks.time_to_exact_match import Point, Recipe, evaluations, first_reached, table
from benchmarks.trainees import INSTALL, Trainee, begin_gpt2, begin_popgpt, padded_rows
from popgpt.config import load_config
from popgpt.data.batches import IGNORE_INDEX
from popgpt.data.dataset import Dataset, ensure_dataset

SMALL = ["train_lines=300", "val_lines=20", "test_lines=40", "n_layer=1", "d_model=16", "d_head=8", "batch_size=4"]


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    return [*SMALL, f"data_dir={tmp_path}", "device=cpu", "max_iters=3", "warmup_iters=1"]


@pytest.fixture
def dataset(words: list[str]) -> Dataset:
    return ensure_dataset(load_config(benchmark.CONFIG, words))


def slow_to_answer(lines: Sequence[str]) -> list[bool]:
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass
    return ["+" in line for line in lines]


def test_evaluations_are_a_tenth_apart_and_their_seconds_are_left_out(dataset: Dataset) -> None:
    points = list(evaluations(Trainee(1, lambda: 7, slow_to_answer), ["1+2=3", "2-1=1"], dataset, 125, 60.0))
    assert [point.iterations for point in points] == [*range(10, 101, 10), 110, 121, 125]
    assert [point.lines for point in points] == [7 * point.iterations for point in points]
    assert points[-1].exact == {"all": 0.5, "+": 1.0, "-": 0.0}
    assert points[-1].processor < 0.05


def test_a_peer_ends_when_its_seconds_are_spent(dataset: Dataset) -> None:
    def step() -> int:
        slow_to_answer([])
        return 1

    points = list(evaluations(Trainee(1, step, slow_to_answer), ["1+2=3"], dataset, 1000, 0.14))
    assert [point.iterations for point in points] == [3]


def test_the_table_says_which_seeds_reached_what() -> None:
    def point(iterations: int, exact: float) -> Point:
        return Point(iterations, 1000 * iterations, 0.5 * iterations, 1.0 * iterations, {"all": exact})

    curves = [[point(10, 0.4), point(20, 0.91), point(30, 0.89)], [point(10, 0.6), point(30, 0.8)]]
    assert [found.iterations for found in first_reached(curves, "all", 0.5)] == [20, 10]
    recipe = Recipe("popgpt", load_config(benchmark.CONFIG), begin_popgpt)
    assert table([(recipe, curves)])[2:] == [
        "| popgpt | all | 50% | 2 of 2 | 7.5 (5.0 to 10.0) | 15.0 (10.0 to 20.0) | 15,000 (10,000 to 20,000) "
        "| 15 (10 to 20) |",
        "| popgpt | all | 90% | 1 of 2 | 10.0 | 20.0 | 20,000 | 20 |",
        "| popgpt | all | end: 84.50 (80.00 to 89.00)% | 2 of 2 | 15.0 | 30.0 | 30,000 | 30 |",
    ]


def test_padded_rows_teach_answers_only(dataset: Dataset) -> None:
    tokens, targets = padded_rows(dataset)
    vocabulary = dataset.meta.vocabulary
    for line, row, wanted in zip(dataset.split("train").lines(), tokens, targets, strict=True):
        assert vocabulary.decode(row).rstrip("\n") == line
        assert vocabulary.decode(wanted[wanted != IGNORE_INDEX]) == line.partition("=")[2] + "\n"
        assert (wanted[: line.index("=") + 1] == IGNORE_INDEX).all()


@pytest.mark.parametrize("view", ["plain", "worked"])
def test_a_recipe_is_trained_by_popgpts_own_step(view: str, words: list[str], dataset: Dataset) -> None:
    config = load_config(benchmark.CONFIG, [*words, f"view={view}"])
    points = benchmark.curve(Recipe("popgpt", config, begin_popgpt), config, dataset)
    assert points[-1].iterations == 3
    assert points[-1].lines > 0
    assert points[-1].exact.keys() == {"all", "+", "-"}


def test_peers_are_of_the_recipes_size_and_without_its_view(
    words: list[str], dataset: Dataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "find_spec", lambda name: None)
    words = [*words, "view=worked", "learning_rate=0.012"]
    (windows,) = benchmark.peers(benchmark.CONFIG, words, load_config(benchmark.CONFIG, words), dataset, 0.1)
    assert capsys.readouterr().out == INSTALL + "\n"
    config = windows.config
    assert (config.view, config.align_to_lines, config.optimizer, config.d_model) == ("plain", False, "adamw", 16)
    assert (config.learning_rate, config.lr_decay_iters) == (1e-3, config.max_iters)
    assert benchmark.curve(windows, config, dataset)[-1].iterations <= config.max_iters


def test_gpt2_learns_a_few_lines_by_heart(words: list[str]) -> None:
    """That a peer learns little in a minute is then not for want of a right loss, or of the right question."""
    pytest.importorskip("transformers")
    few = ["dataset=few", "train_lines=20", "view=plain", "batch_size=8", "learning_rate=0.005", "d_model=64"]
    config = load_config(benchmark.CONFIG, [*words, *few, "max_iters=300"])
    dataset = ensure_dataset(config)
    trainee, lines = begin_gpt2(config, dataset), dataset.split("train").lines()
    assert not any(trainee.right(lines))
    assert [trainee.step() for _ in range(300)] == [8, 8, 4] * 100
    assert all(trainee.right(lines))
