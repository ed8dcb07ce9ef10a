from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popgpt.sweep.report.axes import Axis, linear_ticks, log_ticks, parameter_axis, score_axis, spaced


@pytest.mark.parametrize(
    ("low", "high", "most", "ticks"),
    [
        (0.0, 1.0, 6, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.0, 0.97, 6, [0, 0.2, 0.4, 0.6, 0.8]),
        (10, 100, 5, [50, 100]),
        (0.9, 0.999, 6, [0.9, 0.92, 0.94, 0.96, 0.98]),
    ],
)
def test_linear_ticks(low: float, high: float, most: int, ticks: list[float]) -> None:
    assert linear_ticks(low, high, most) == ticks


@pytest.mark.parametrize(
    ("low", "high", "most", "ticks"),
    [
        (1e-3, 1e-2, 6, [0.001, 0.002, 0.005, 0.01]),
        (1e-5, 1e-1, 6, [1e-5, 1e-4, 1e-3, 1e-2, 1e-1]),
        (3.0, 4.0, 6, [3.0, 3.2, 3.4, 3.6, 3.8, 4.0]),
    ],
)
def test_log_ticks(low: float, high: float, most: int, ticks: list[float]) -> None:
    assert log_ticks(low, high, most) == ticks


@pytest.mark.parametrize(
    ("domain", "values", "kind", "names"),
    [
        ({"kind": "loguniform", "values": [1e-3, 1e-2]}, [2e-3], "log", ["0.001", "0.002", "0.005", "0.01"]),
        ({"kind": "loguniform", "values": [1e-3, 1e-2]}, [1e-1], "log", ["0.001", "0.01", "0.1"]),
        ({"kind": "choice", "values": [128, 64]}, [64], "choice", ["64", "128"]),
        ({"kind": "choice", "values": ["b", "a"]}, ["a"], "choice", ["b", "a"]),
        ({"kind": "choice", "values": [None, 0.5]}, [0.5], "choice", ["null", "0.5"]),
        ({"kind": "grid", "values": [True, False]}, [True], "choice", ["true", "false"]),
        ({"kind": "randint", "values": [0, 4]}, [3], "linear", ["0", "1", "2", "3", "4"]),
        ({"kind": "divisors_of", "values": ["d_model", 8, 64]}, [16, 32, 8], "choice", ["8", "16", "32"]),
        (None, [3], "choice", ["3"]),
    ],
)
def test_the_axis_of_a_parameter(domain: Any, values: list[Any], kind: str, names: list[str]) -> None:
    axis = parameter_axis(domain, values)
    assert axis.kind == kind
    assert [name for _, name in axis.ticks(5 if kind == "linear" else 4)] == names


@given(st.lists(st.floats(0, 1), max_size=5), st.booleans(), st.booleans())
def test_a_score_lies_on_its_axis(values: list[float], share: bool, from_zero: bool) -> None:
    axis = score_axis(values, str, share, from_zero)
    assert axis.low < axis.high
    for value in values:
        assert -1e-6 <= axis.at(value) <= 1 + 1e-6
    assert all(-1e-6 <= at <= 1 + 1e-6 for at, _ in axis.ticks(6))


@given(st.lists(st.tuples(st.floats(0, 1), st.text(max_size=12)), max_size=12), st.floats(10, 1000))
def test_names_on_an_axis_do_not_overlap(ticks: list[tuple[float, str]], length: float) -> None:
    kept = sorted(spaced(ticks, length))
    assert bool(kept) == bool(ticks)
    for (a, one), (b, other) in itertools.pairwise(kept):
        assert (b - a) * length >= (len(one) + len(other)) / 2 * 6.6


def test_choices_stand_at_equal_distances() -> None:
    assert [Axis("choice", values=("a", "b")).at(value) for value in ("a", "b")] == [0.25, 0.75]
