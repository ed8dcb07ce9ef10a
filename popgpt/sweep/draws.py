"""The trials that random search draws from a space, and the values that any trial may have."""

from __future__ import annotations

import itertools
import logging
import math
import random
from collections.abc import Callable, Mapping
from typing import Any

from popgpt.config import DERIVED, Config, derived, divisors, merge
from popgpt.sweep.domain import Domain
from popgpt.sweep.schema import Sweep
from popgpt.text.errors import UserError

FEW = 1_000  # values of a range that are told one by one
# How many draws may come to nothing, for one trial and for all of a sweep, and how many of them may be refused.
DRAWS, ALL_DRAWS, REFUSALS, ALL_REFUSALS = 10_000, 20_000, 1_000, 5_000

logger = logging.getLogger(__name__)


def sample(sweep: Sweep) -> list[dict[str, Any]]:
    """The swept parameters of each trial, in order.

    First the points to evaluate, then draws of the combinations that the config accepts, up to `num_samples` trials, or
    so many for each point of the grid where there is one (as Ray Tune counts). None is drawn twice, so a finite space
    that is exhausted gives fewer. A parameter whose `when` doesn't hold is left out, and keeps the base's value.
    A function of the sweep's seed alone, and a larger `num_samples` only adds trials at the end. Floats are rounded to
    six significant digits, so that a `key=value` command repeats a trial exactly.
    Raises UserError where (nearly) every combination is refused.
    """
    grid = {name: domain.values for name, domain in sweep.space.items() if domain.kind == "grid"}
    cells = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    trials = [dict(point) for point in sweep.points]
    draws = _Draws(sweep, {trial_key(trial) for trial in trials})
    for number in range(max(0, sweep.num_samples * len(cells) - len(trials))):
        trial = draws.next(cells[number % len(cells)], number)
        if trial is not None:
            trials.append(trial)
    if not trials:
        raise UserError(f"{sweep.source}: the config refuses every combination of the space: {draws.refusal}")
    if draws.given_up:
        count = f"{len(trials)} of {sweep.num_samples * len(cells)} trials were found"
        logger.warning("%s: few combinations of the space are new and accepted; %s", sweep.source, count)
    return trials


Key = tuple[tuple[str, Any], ...]


def trial_key(trial: Mapping[str, Any]) -> Key:
    return tuple(trial.items())


class _Draws:
    """Draws that are new and that the config accepts. A cell of the grid in which none was found has no more; and the
    draws that come to nothing are bounded for the sweep as a whole, so that none takes for ever.
    """

    def __init__(self, sweep: Sweep, seen: set[Key]):
        self.refusal = ""  # why the first was refused that was
        self.given_up = False
        self._sweep, self._seen = sweep, seen
        self._exhausted: set[Key] = set()
        self._wasted = self._refused = 0

    def next(self, cell: Mapping[str, Any], number: int) -> dict[str, Any] | None:
        """The first new draw that the config accepts, or None."""
        if self.given_up or (trial_key(cell) in self._exhausted and len(cell) < len(self._sweep.space)):
            return None
        size = math.prod(domain.size for name, domain in self._sweep.space.items() if name not in cell)
        tried: set[Key] = set()
        refused = 0
        for attempt in range(DRAWS if len(cell) < len(self._sweep.space) else 1):
            try:
                drawn = _draw_all(self._sweep, cell, f"{self._sweep.seed}/{number}/{attempt}")
                fresh = trial_key(drawn) not in self._seen and trial_key(drawn) not in tried
                tried.add(trial_key(drawn))
                if fresh:
                    self._sweep.config(drawn)
                    self._seen.add(trial_key(drawn))
                    return drawn
            except UserError as error:
                reason = str(error).splitlines()[0].removeprefix(f"{self._sweep.source}: ")
                self.refusal = self.refusal or reason
                refused += 1
                self._refused += 1
            self._wasted += 1
            self.given_up = self._wasted >= ALL_DRAWS or self._refused >= ALL_REFUSALS
            if len(tried) == size or refused == REFUSALS or self.given_up:
                break
        self._exhausted.add(trial_key(cell))
        return None


def _draw_all(sweep: Sweep, cell: Mapping[str, Any], stream: str) -> dict[str, Any]:
    """One value of each parameter. Each has its own stream, so pinning one leaves the others' draws as they were."""
    return compose(
        sweep,
        lambda name, domain: cell[name] if name in cell else domain.draw(random.Random(f"{stream}/{name}")),
    )


def compose(sweep: Sweep, pick: Callable[[str, Domain], Any]) -> dict[str, Any]:
    """A value of each parameter whose `when` holds, in the space's order. `pick` gives it by the parameter's name and
    domain, which of divisors is a choice of those that the values picked before leave. Raises UserError where none is.
    """
    picked: dict[str, Any] = {}
    for name, domain in sweep.space.items():
        if domain.when and value_of(sweep, picked, domain.when[0]) not in domain.when[1]:
            continue
        if domain.kind == "divisors_of":
            domain = domain.choice_for(value_of(sweep, picked, domain.values[0]))
        picked[name] = pick(name, domain)
    return picked


def value_of(sweep: Sweep, drawn: Mapping[str, Any], name: str) -> Any:
    """A parameter's value in a trial that is partly drawn: the base's, or its default, where it isn't swept."""
    if name in DERIVED and drawn.get(name) is None:
        return derived(merge(sweep.base, drawn))[name]
    return drawn.get(name, sweep.base.get(name, Config.model_fields[name].default))


def largest(sweep: Sweep, name: str) -> int:
    """The largest value of a whole number in any trial: of its domain, of the points to evaluate, and of the base
    where a trial may be without it. Of what is derived from swept parameters, or divides a number of a range, no less.
    """
    domain = sweep.space.get(name)
    values = [point[name] for point in sweep.points if name in point]
    if domain is None or _may_lack(sweep, name):
        values.append(value_of(sweep, {}, name))
        values.extend(largest(sweep, origin) for origin in DERIVED.get(name, ()) if origin in sweep.space)
    if domain and domain.kind == "divisors_of":
        of, _, high = domain.values
        wholes = _values(sweep, of)
        divided = {d for whole in wholes or () if whole > 0 for d in divisors(whole) if d <= high}
        values.append(min(high, largest(sweep, of)) if wholes is None else max(divided, default=1))
    elif domain:
        values.extend(domain.values)
    return int(max(values))


def _values(sweep: Sweep, name: str) -> set[Any] | None:
    """The values that a parameter may have in a trial; None where they are many, or follow from what is swept."""
    domain = sweep.space.get(name)
    values = {point[name] for point in sweep.points if name in point}
    if domain is None or _may_lack(sweep, name):
        if sweep.base.get(name) is None and any(origin in sweep.space for origin in DERIVED.get(name, ())):
            return None
        values.add(value_of(sweep, {}, name))
    if domain is None or domain.kind in ("choice", "grid"):
        return values | set(domain.values if domain else ())
    low, high = domain.values[-2:]
    return values | set(range(low, high + 1)) if domain.kind == "randint" and high - low < FEW else None


def _may_lack(sweep: Sweep, name: str) -> bool:
    """Whether there may be a trial without a value of its own of a swept parameter."""
    when = sweep.space[name].when
    if any(name not in point for point in sweep.points):
        return True
    values = _values(sweep, when[0]) if when else set()
    return values is None or (when is not None and not values <= set(when[1]))
