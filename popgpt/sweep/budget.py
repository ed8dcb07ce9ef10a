"""A sweep in words before it is run: its domains, and the iterations and the time that it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from popgpt.config import MOST, as_yaml
from popgpt.sweep.draws import sample
from popgpt.sweep.schema import Sweep, rungs
from popgpt.sweep.search import rests_on_others
from popgpt.training.preview import in_minutes

LISTED_VALUES = 12


def describe_domains(sweep: Sweep) -> list[str]:
    """Each swept parameter, where its values come from, and when it is drawn."""
    width = max((len(name) for name in sweep.space), default=0)
    lines = []
    for name, domain in sweep.space.items():
        when = ""
        if domain.when:
            other, values = domain.when
            when = f", when {other} is {' or '.join(map(as_yaml, values))}"
        lines.append(f"  {name:<{width}}  {describe_domain(domain.kind, domain.values)}{when}")
    points = f"{len(sweep.points)} points to evaluate come first" if sweep.points else ""
    return ["swept", *lines, *([f"  {points}"] if points else [])]


def describe_domain(kind: str, values: Sequence[Any]) -> str:
    """A domain in words, such as `choice of 64, 96, 128`."""
    if kind == "divisors_of":
        of, low, high = values
        return f"divisors of {of}" + ("" if (low, high) == (1, MOST) else f", from {low} to {high}")
    if kind in ("choice", "grid"):
        listed = ", ".join(as_yaml(value) for value in values[:LISTED_VALUES])
        return f"{kind} of {listed}" + (f", ... ({len(values)} values)" if len(values) > LISTED_VALUES else "")
    return f"{kind} from {values[0]} to {values[1]}"


def describe_budget(sweep: Sweep, cost: Mapping[str, float] | None) -> list[str]:
    """What a sweep comes to: trials, iterations at most, and with ASHA where a rung keeps 1 / reduction_factor."""
    drawn = sample(sweep)
    trials = len(drawn)
    whole = sum(min(sweep.config(parameters).max_iters, sweep.max_t) for parameters in drawn)
    by_tpe = sum(rests_on_others(sweep, number) for number in range(trials))
    how = f", the last {by_tpe} of them proposed by TPE" if by_tpe else ""
    lines = [f"sweep of {trials} trials{how}: {whole:,} iterations if none were stopped"]
    if sweep.asha:
        at = rungs(sweep.asha, sweep.max_t)[0]
        spent, left, before = 0, trials, 0
        for rung in (*at, sweep.max_t):
            spent, left, before = spent + left * (rung - before), max(1, left // sweep.asha.reduction_factor), rung
        lines.append(
            f"  about {min(whole, spent):,} with ASHA's rungs at {', '.join(map(str, at))} (the first bracket's)"
        )
        whole = min(whole, spent)
    if sweep.finalists:
        count = min(sweep.finalists, trials)
        more = count * (1 + sweep.finalist_seeds) * sweep.max_t
        seeds = f"{sweep.finalist_seeds} more seed{'s' if sweep.finalist_seeds > 1 else ''}"
        how = f"trained to the end and with {seeds}" if sweep.finalist_seeds else "trained to the end"
        lines.append(f"  at most {more:,} more for {count} finalists, {how}")
        whole += more
    if cost:
        seconds = whole * (cost["iteration"] + cost["evaluation"] / sweep.config().eval_interval)
        lines.append(f"  {in_minutes(seconds)} of one process at the base config's cost; trials share the machine")
    return lines
