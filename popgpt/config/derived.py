"""What follows from other parameters: the dataset's name, the learning rate's schedule, the heads' width and number."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from popgpt.config.types import FASTEST, MOST, WIDEST
from popgpt.tasks.registry import task_name

# Each parameter that may be left out, and those that it then follows from.
DERIVED = {
    "dataset": ("task",),
    "lr_decay_iters": ("max_iters", "warmup_iters"),
    "min_lr": ("learning_rate",),
    "d_head": ("d_model", "n_head"),
    "n_head": ("d_model", "d_head"),
}
HEADS = frozenset({"d_head", "n_head"})  # one replaces the other


def with_derived(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in what follows from other parameters; null is as if left out. What is wrong is left for validation."""
    given = {name: value for name, value in given.items() if value is not None or name not in DERIVED}
    value = {**defaults, **given}
    given.setdefault("dataset", task_name(value["task"]))
    if isinstance(value["max_iters"], int) and "lr_decay_iters" not in given:
        given["lr_decay_iters"] = min(max(value["max_iters"], _number(value["warmup_iters"]), 1), MOST)
    if "min_lr" not in given:
        given["min_lr"] = float(f"{value['learning_rate'] / 10:.12g}") if _usable_rate(value["learning_rate"]) else 0.0
    d_model, d_head, n_head = value["d_model"], given.get("d_head"), given.get("n_head")
    if isinstance(d_model, int) and 0 < d_model <= WIDEST:
        if d_head is None and n_head is None:
            d_head = given["d_head"] = min(value["d_head"], d_model)
        if n_head is None and isinstance(d_head, int) and 0 < d_head <= WIDEST:
            _check_divides(d_model, d_head, "d_head")
            given["n_head"] = d_model // d_head
        elif d_head is None and isinstance(n_head, int) and 0 < n_head <= WIDEST:
            _check_divides(d_model, n_head, "n_head")
            given["d_head"] = d_model // n_head
    return given


def _usable_rate(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) <= FASTEST


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _check_divides(d_model: int, part: int, name: str) -> None:
    if d_model % part:
        nearest = min(divisors(d_model), key=lambda d: (abs(d - part), d))
        multiple = max(1, round(d_model / part)) * part
        raise ValueError(
            f"{name}={part} does not divide d_model={d_model}; "
            f"nearest that does: {name}={nearest} (or d_model={multiple})"
        )


@lru_cache(2**14)
def divisors(whole: int) -> tuple[int, ...]:
    """The divisors of a whole number above 0, ascending, in time proportional to its square root at most."""
    found, rest, prime = [1], whole, 2
    while rest > 1:
        prime = prime if prime * prime <= rest else rest
        power, before = 1, found
        while rest % prime == 0:
            rest //= prime
            power *= prime
            found = found + [divisor * power for divisor in before]
        prime += 1 if prime == 2 else 2
    return tuple(sorted(found))
