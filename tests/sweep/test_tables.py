"""The tables of a sweep, on terminals of several sizes and elsewhere."""

from __future__ import annotations

import io
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console, RenderableType

from popgpt.sweep import tables
from popgpt.sweep.events import Status
from popgpt.sweep.ranking import ranked as in_order
from popgpt.sweep.trial import Trial
from tests.sweep.test_ranking import TRIALS

REASON = "asha: rung 100: exact_match 0.0123, not promoted"
SPACES: dict[int, dict[str, list[Any]]] = {
    count: dict(
        [
            ("learning_rate", [0.000354217, 0.012345]),
            ("weight_decay", [0.0, 0.123456]),
            ("gradient_accumulation_steps", [1, 16]),
            ("mask_before_token", ["=", None]),
            ("optimizer", ["muon", "adamw"]),
            ("d_model", [64, 1024]),
            *[(name, [100000, 200000]) for name in ("max_iters", "warmup_iters", "eval_interval", "block_size")],
        ][:count]
    )
    for count in (1, 3, 6, 10)
}


def sweep(count: int, space: Mapping[str, list[Any]]) -> list[Trial]:
    """So many trials in order: some completed, most stopped, some running, one failed, the last ones waiting."""
    rng, trials = random.Random(0), []
    for number in range(count):
        config = {name: rng.choice(choices) for name, choices in space.items()}
        kind = "waiting" if number > 0.9 * count else "running" if number > 0.8 * count else "stopped"
        kind = {0: "completed", 1: "failed"}.get(number, kind)
        low, exact, high = sorted(rng.random() for _ in range(3))
        row = {"iteration": 1000, "exact_match": exact, "exact_match_low": low, "exact_match_high": high}
        row |= {"token_accuracy": 0.5, "val_loss": 1.2345678}
        reason = {"stopped": REASON, "failed": "RuntimeError: " + "out of memory " * 30}.get(kind)
        rows = [] if kind in ("failed", "waiting") else [row]
        trials.append(Trial(f"{number:04d}", config, Status(kind), reason, rows))
    return in_order(trials, "exact_match")


def drawn(parts: Sequence[RenderableType], width: int, height: int = 24) -> list[str]:
    console = Console(width=width, height=height, force_terminal=True, color_system=None, file=io.StringIO())
    for part in parts:
        console.print(part)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]


def terminal(width: int, height: int = 24) -> Console:
    return Console(width=width, height=height, force_terminal=True, file=io.StringIO())


def test_every_trial_is_shown_with_its_interval() -> None:
    ranked = in_order(TRIALS, "exact_match")
    lines = drawn([tables.table(ranked, "exact_match")], 160)
    assert lines[0].split("  ")[0] == "trial"
    assert lines[1].split() == ["top", "64", "200", "90.0%", "85.0%", "to", "94.0%", "50.0%", "completed"]
    assert lines[-1].split() == ["broken", "64", "0", "failed:", "RuntimeError:", "out", "of", "memory"]


@pytest.mark.parametrize("count", SPACES)
@pytest.mark.parametrize("width", [60, 80, 100, 120, 160, 250])
def test_identifiers_values_scores_and_statuses_fit(width: int, count: int) -> None:
    """Whole, each trial on a line of its own but where ten parameters have no room beside each other."""
    ranked = sweep(16, SPACES[count])
    lines = drawn([tables.table(ranked, "exact_match", width)], width)
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    if count < 10 and width >= 80:
        lines = lines[-len(ranked) :]
    text = " ".join(lines).split()
    for place, trial in enumerate(ranked):
        best = trial.best_row("exact_match")
        words = lines[place].split() if count < 10 and width >= 80 else text
        assert trial.id in words
        assert any(word.startswith(trial.status) for word in words)
        if best:
            assert f"{best['exact_match']:.1%}" in words
        for name, given in trial.config.items():
            shown = [tables.value(given, 3), tables.value(given)]
            assert {*shown, *(f"{name}={each}" for each in shown)} & {*words}, name


@pytest.mark.parametrize("metric", ["exact_match", "token_accuracy", "val_loss"])
def test_the_score_that_ranks_is_never_left_out(metric: str) -> None:
    ranked = sweep(5, SPACES[6])
    lines = drawn([tables.table(ranked, metric, 80)], 80)
    best = ranked[0].best_row("exact_match")
    scores = {"exact_match": f"{best['exact_match']:.1%}", "token_accuracy": "50.0%", "val_loss": "1.235"}
    assert scores[metric] in lines[-5].split()


def test_what_matters_least_goes_first() -> None:
    ranked = [each for each in sweep(5, SPACES[3]) if each.best_row("exact_match")]
    seen = set()
    for width in range(70, 220, 5):
        text = " ".join(drawn([tables.table(ranked, "exact_match", width)], width))
        shown = tuple(word in text for word in ("iter", "interval", "token", "loss", "not promoted"))
        assert shown == tuple(sorted(shown, reverse=True)), width
        seen.add(sum(shown))
    assert seen == {1, 2, 3, 4, 5}


def test_a_repeat_has_no_column_for_its_seed() -> None:
    ranked = sweep(3, SPACES[6])
    repeat = replace(ranked[0], id="0000-s1", of="0000", config={**ranked[0].config, "seed": 1338})
    lines = drawn([tables.table([repeat, *ranked], "exact_match", 80)], 80)
    assert "seed" not in " ".join(lines)
    assert "1000" in lines[-4].split(), "how far it got is seen beside six parameters"


def test_folded_headers_stay_distinct() -> None:
    ranked = sweep(3, {"eval_interval_a": [1], "eval_interval_b": [2], "evaluation_interval_b": [3]})
    names = tables.swept_names(ranked)
    headers = [tables.folded_column(ranked, name, names, 5).header for name in names]
    assert len({*headers}) == 3
    assert headers[0] == "eval\ninter\na"


@pytest.mark.parametrize("height", [1, 2, 5, 10, 20])
@pytest.mark.parametrize("count", SPACES)
def test_a_table_is_cropped_to_a_height(count: int, height: int) -> None:
    """Of 200 trials the best are seen, and those that run, and how many there are besides."""
    ranked = sweep(200, SPACES[count])
    lines = drawn(tables.cropped(ranked, "exact_match", terminal(80), height), 80)
    assert len(lines) <= height
    if height >= 10:
        assert any(line.startswith(ranked[0].id) for line in lines)
        assert "running" in " ".join(lines)
        assert lines[-1].startswith("... and 1")
        left = [int(word) for word in lines[-1].replace("...", "").split() if word.isdigit()]
        assert left[0] == sum(left[1:])


def test_a_table_with_room_is_whole() -> None:
    ranked = sweep(12, SPACES[3])
    lines = drawn(tables.cropped(ranked, "exact_match", terminal(80), 22), 80)
    assert sum(line[:4].isdigit() for line in lines) == 12
    assert not lines[-1].startswith("...")


def test_reasons_are_told_once_each_in_a_line() -> None:
    trials = [Trial(f"{n:04d}", {}, Status.FAILED, f"E{n % 20}: \x1b[1m" + "x" * 200) for n in range(100)]
    lines = list(tables.describe_failures(trials, 80))
    assert lines[0].startswith(r"failed: 0000, 0020, 0040 and 2 more: E0: \x1b[1mxxx")
    assert all(len(line) <= 80 for line in lines)
    assert lines[-1] == "... and 10 more reasons"
    assert len(lines) == 11


def test_values_are_text_and_nothing_else() -> None:
    """Neither markup of rich's nor a command to the terminal."""
    ranked = sweep(2, {"mask_before_token": ["[", "[bold]x[/]", "\x1b[2J", "\u202e"]})
    hostile = [replace(each, config={"a": "[bold]x[/]", "b": "\x1b[2J\u202e"}) for each in ranked]
    lines = drawn([tables.table(hostile, "exact_match", 80)], 80)
    assert all(line.split()[1:3] == ["[bold]x[/]", r"\x1b[2J\u202e"] for line in lines[-2:])
