from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from popgpt.config import Config
from popgpt.data.batches import IGNORE_INDEX, make_rows, open_view
from popgpt.data.dataset import ensure_dataset
from popgpt.model.gpt import GPT
from popgpt.training.evaluation import (
    answer_lines,
    batch_loss,
    count_exact,
    evaluate,
    evaluate_split,
    exact_match_metrics,
    open_split,
    wilson,
)
from popgpt.training.feed import Inputs
from popgpt.training.loop import fit
from popgpt.training.world import World

ALONE = World(torch.device("cpu"))
Make = Callable[..., Config]


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (1960, 2000, 0.9729, 0.9853)],
)
def test_wilson_has_the_known_bounds(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=1e-4)


@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_wilson_holds_the_proportion(a: int, b: int) -> None:
    n, successes = max(a, b), min(a, b)
    low, high = wilson(successes, n)
    assert 0 <= low <= (successes / n if n else 0) <= high <= 1


def test_counts_are_divided_once_and_by_operation() -> None:
    lines = ["1+1=2", "2-1=1", "3-1=2", "-1-1=-2"]
    counts = count_exact(lines, [True, False, True, True], "=", "+-*")
    assert counts.tolist() == [[3, 4], [1, 1], [2, 3], [0, 0]]
    scores = exact_match_metrics(counts, "+-*")
    assert (scores["exact_match"], scores["exact_match_n"]) == (0.75, 4)
    assert {symbol: part["n"] for symbol, part in scores["by_operation"].items()} == {"+": 1, "-": 3}


@pytest.fixture
def trained(tiny: Make) -> tuple[GPT, Config]:
    """A model that gets some lines right and some wrong."""
    from popgpt.training.checkpoint import open_model

    grammar = {"task": {"operations": "+", "decimals": 0, "integer_digits": 1}, "dataset": "calculator-easy"}
    sizes = {"train_lines": 80, "val_lines": 10, "test_lines": 10, "d_model": 32, "batch_size": 16}
    once = {"max_iters": 70, "eval_interval": 70, "log_interval": 70, "learning_rate": 0.01}
    config = tiny(**grammar, **sizes, **once)
    fit(config, ensure_dataset(config), ALONE)
    return open_model(Path(config.out_dir), ALONE.device)[0], config


def test_generated_exact_match_is_that_of_all_targets_predicted_right(trained: tuple[GPT, Config]) -> None:
    """Greedy decoding writes an answer to the character if and only if each teacher-forced prediction is right."""
    model, config = trained
    dataset = ensure_dataset(config)
    for split in ("train", "val"):
        lines = dataset.split(split).lines()
        _, right = answer_lines(model, open_view(config, dataset.meta), "=", lines)
        for line, hit in zip(lines, right, strict=True):
            ids = torch.from_numpy(dataset.meta.vocabulary.encode(line + "\n"))
            with torch.inference_mode():
                predicted = model(ids[None, :-1], torch.arange(len(line))[None])[0].argmax(-1)
            start = line.index("=")
            assert hit == torch.equal(predicted[start:], ids[start + 1 :])
    scores = evaluate(model, open_split(config, dataset, "train", ALONE), ALONE)
    assert 0.2 < scores["exact_match"] < 1
    assert evaluate(model, open_split(config, dataset, "train", ALONE), ALONE) == scores


def test_lines_too_long_for_the_block_count_as_wrong(tiny: Make) -> None:
    config = tiny(block_size=9)
    dataset = ensure_dataset(config)
    scores = evaluate_split(GPT(config, len(dataset.meta.vocabulary)).eval(), dataset, "val")
    assert scores["exact_match_n"] == 60
    assert max(len(line) for line in dataset.split("val").lines()) > 9


def test_eval_iters_bounds_what_is_read(tiny: Make) -> None:
    config = tiny(eval_iters=2)
    dataset = ensure_dataset(config)
    model = GPT(config, len(dataset.meta.vocabulary)).eval()
    assert 0 < evaluate(model, open_split(config, dataset, "val", ALONE), ALONE)["exact_match_n"] < 60
    assert evaluate_split(model, dataset, "val")["exact_match_n"] == 60


def test_loss_is_a_sum_over_unmasked_targets(tiny: Make) -> None:
    config = tiny()
    dataset = ensure_dataset(config)
    rows = make_rows(config, dataset, "train", 0)
    model = GPT(config, len(dataset.meta.vocabulary))
    whole, _ = batch_loss(model, Inputs.of(rows.at(np.arange(6))), config)
    parts = [batch_loss(model, Inputs.of(rows.at(np.array([i]))), config)[0] for i in range(6)]
    assert whole.item() == pytest.approx(sum(part.item() for part in parts), rel=1e-5)
    batch = rows.at(np.arange(6))
    assert whole.item() / (batch.targets != IGNORE_INDEX).sum() == pytest.approx(
        np.log(len(dataset.meta.vocabulary)), rel=0.1
    )
