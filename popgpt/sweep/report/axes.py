"""Axes of a picture: where a value stands, and which values are named."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from popgpt.sweep.domain import RANGES
from popgpt.sweep.report.findings import as_text

Label = Callable[[Any], str]


@dataclass(frozen=True)
class Axis:
    """An axis from 0 to 1: of a choice `values` at equal distances, else from `low` to `high`."""

    kind: Literal["linear", "log", "choice"]
    low: float = 0.0
    high: float = 1.0
    values: tuple[str, ...] = ()
    label: Label = as_text

    def at(self, value: Any) -> float:
        """Return where a value stands."""
        if self.kind == "choice":
            return (self.values.index(as_text(value)) + 0.5) / len(self.values)
        if self.kind == "log":
            return math.log(value / self.low) / math.log(self.high / self.low)
        return float(value - self.low) / (self.high - self.low)

    def ticks(self, most: int) -> list[tuple[float, str]]:
        """Return the places and names of at most `most` round values; of choices, all."""
        if self.kind == "choice":
            return [(self.at(value), value) for value in self.values]
        ticks = log_ticks(self.low, self.high, most) if self.kind == "log" else linear_ticks(self.low, self.high, most)
        return [(self.at(tick), self.label(tick)) for tick in ticks]


def linear_ticks(low: float, high: float, most: int) -> list[float]:
    """Return round values from low to high, 1, 2 or 5 times a power of ten apart, `most` at most."""
    least = (high - low) / max(1, most)
    power = 10.0 ** math.floor(math.log10(least))
    step = next(times * power for times in (1, 2, 5, 10, 20) if (high - low) / (times * power) <= most - 1 + 1e-9)
    first = math.ceil(low / step - 1e-9)
    return [float(f"{k * step:.12g}") for k in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """Return powers of ten from low to high, and 2 and 5 times these if `most` allows; linear ones in a short range."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fits = []
    for factors in ((1, 2, 5), (1, 3), (1,)):
        fits = [float(f"{times}e{k}") for k in decades for times in factors]
        fits = [tick for tick in fits if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if len(fits) <= most:
            break
    if len(fits) < 2:
        return linear_ticks(low, high, most)
    return fits[:: math.ceil(len(fits) / most)]


def parameter_axis(domain: Mapping[str, Any] | None, values: Iterable[Any]) -> Axis:
    """Return the axis of a swept parameter, which holds its domain and the values that were drawn, one at least.

    domain: as sweep.json has it; without one it is guessed.
    """
    domain = domain or {"kind": None, "values": []}
    kind, drawn = domain["kind"], list(values)
    ranged = kind in RANGES
    whole = [*domain["values"], *drawn] if kind != "divisors_of" else drawn
    different = {as_text(value) for value in whole}
    if not all(_is_number(value) for value in whole) or (not ranged and len(different) <= 8):
        return Axis("choice", values=tuple(_in_order(whole)))
    low, high = min(whole), max(whole)
    if low == high:
        return Axis("choice", values=(as_text(low),))
    is_log = low > 0 and (kind == "loguniform" or (not ranged and high >= 8 * low))
    return Axis("log" if is_log else "linear", low, high)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _in_order(values: Sequence[Any]) -> list[str]:
    """Return each different value by name: numbers ascending, others as they come."""
    ordered = sorted(values) if all(_is_number(value) for value in values) else values
    return list(dict.fromkeys(map(as_text, ordered)))


def score_axis(values: Iterable[float], label: Label, share: bool, from_zero: bool = True) -> Axis:
    """Return a linear axis that holds `values`, with round ends; a share's lies within 0 and 1."""
    given = list(values)
    low, high = min(given, default=0.0), max(given, default=1.0)
    if from_zero and low > 0:
        low = 0.0
    if high - low <= 1e-9 * max(1.0, abs(high)):
        room = 0.05 * max(1.0, abs(high))
        low, high = low - room, high + room
    ticks = linear_ticks(low, high, 6)
    step = ticks[1] - ticks[0] if len(ticks) > 1 else high - low
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    if share:
        low, high = max(low, 0.0), min(high, 1.0)
    return Axis("linear", low, high, label=label)


def spaced(ticks: Iterable[tuple[float, str]], length: float, character: float = 6.6) -> list[tuple[float, str]]:
    """Return the ticks whose names don't overlap along `length` pixels; the earlier given goes before the later."""
    kept: list[tuple[float, str]] = []
    for at, name in ticks:
        room = [(len(name) + len(other)) / 2 * character + 8 for _, other in kept]
        if all(abs(at - place) * length >= needed for (place, _), needed in zip(kept, room, strict=True)):
            kept.append((at, name))
    return kept
