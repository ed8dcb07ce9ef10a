"""A sweep's scores as pictures: learning curves, and intervals in a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from popgpt.metrics.metric import METRICS
from popgpt.metrics.row import Row
from popgpt.sweep.content import Content
from popgpt.sweep.events import Status
from popgpt.sweep.report import findings
from popgpt.sweep.report.axes import Axis, Label, linear_ticks, score_axis, spaced
from popgpt.sweep.report.svg import NARROW, Point, cut, line, path, picture, tag, text
from popgpt.sweep.trial import Trial

Place = Callable[[float, float], Point]
"""Where an iteration and a value stand."""


def value_axis(content: Content) -> Axis:
    """Return the axis of the sweep's metric that holds all its values, and the best ones' intervals."""
    metric = content.metric
    values = [row[metric] for trial in content.trials for row in trial.metrics if _finite(row, metric)]
    highs = [trial.best_row(metric).get("exact_match_high") for trial in content.trials]
    values += [high for high in highs if high is not None and metric == "exact_match"]
    share = METRICS[metric].is_share
    return score_axis(values, axis_label(share), share)


def axis_label(share: bool) -> Label:
    """Return what names a value on an axis; a share as a percentage."""
    return (lambda value: f"{100 * value:.4g}%") if share else (lambda value: f"{value:g}")


def _finite(row: Mapping[str, Any], metric: str) -> bool:
    value = row.get(metric)
    return isinstance(value, int | float) and abs(value) < float("inf")


def describe(trial: Trial) -> str:
    """Return a trial in a line."""
    values = ", ".join(f"{name}={findings.as_text(value)}" for name, value in trial.config.items())
    return f"trial {trial.id} ({values}), {trial.status} at iteration {trial.iterations:,}"


def _scored(trial: Trial, metric: str) -> str:
    score = findings.shown_score(trial.best_row(metric), metric)
    return f"{describe(trial)}, best {METRICS[metric].label} {score}"


def curves(content: Content, width: int) -> str:
    """Draw the metric of each trial by iteration, the rungs, and the best trial in colour with its interval."""
    metric = content.metric
    known = {trial.id: [row for row in trial.metrics if metric in row] for trial in content.trials}
    shown = [trial for trial in content.trials if any(_finite(row, metric) for row in known[trial.id])]
    if not shown:
        return ""
    x, x_ticks = _iteration_axis(content, [row["iteration"] for rows in known.values() for row in rows])
    y = value_axis(content)
    left, right, top, bottom = 50.0, width - 78.0, 44.0, (390.0 if width > NARROW else 290.0) - 46.0

    def place(iteration: float, value: float) -> Point:
        return left + x.at(iteration) * (right - left), bottom - y.at(value) * (bottom - top)

    marks = frame(x_ticks, y, (left, right, top, bottom))
    for rung in content.rungs:
        if x.low <= rung <= x.high:
            at = place(rung, y.low)[0]
            marks += [line((at, top), (at, bottom), "rung"), text(at, top - 7, "rung", "middle", "small muted")]
    roles = {finalist["id"]: "finalist" for finalist in content.finalists} | {content.best.get("id"): "winner"}
    for trial in sorted(shown, key=lambda trial: ["", "finalist", "winner"].index(roles.get(trial.id, ""))):
        marks.append(_curve(trial, known[trial.id], metric, place, roles.get(trial.id, "trial")))
    scale = ", log scale" if x.kind == "log" else ""
    marks.append(text((left + right) / 2, bottom + 38, f"iteration{scale}", "middle"))
    marks.append(text(4, 14, findings.on_val(metric), class_="axis-name"))
    return picture(width, bottom + 46, _curves_label(content, len(shown)), *marks)


def _curves_label(content: Content, shown: int) -> str:
    best, metric = content.best_trial, content.metric
    words = f"Learning curves of {shown} trials: {findings.on_val(metric)} by iteration."
    return f"{words} The best is {_scored(best, metric)}." if best is not None else words


def _iteration_axis(content: Content, iterations: Sequence[float]) -> tuple[Axis, list[tuple[float, str]]]:
    """Return the axis and its named places: the rungs and the end if these are far apart, else round numbers."""
    low, high = min(iterations), max([*iterations, *map(content.budget, content.trials)])
    if content.rungs and low > 0 and high >= 5 * low:
        axis = Axis("log", low, high, label=_count)
        places = [at for at in (high, *content.rungs, low) if low <= at <= high]
    else:
        axis = Axis("linear", 0, max(high, 1), label=_count)
        places = [at for at in linear_ticks(0, max(high, 1), 6) if at == int(at)]
    return axis, [(axis.at(at), _count(at)) for at in dict.fromkeys(places)]


def _count(value: Any) -> str:
    return f"{int(value):,}"


def frame(x_ticks: Sequence[tuple[float, str]], y: Axis, edges: tuple[float, float, float, float]) -> list[str]:
    """Draw a grid with named places on both axes within the edges: left, right, top, bottom."""
    left, right, top, bottom = edges
    marks = []
    for at, name in spaced(y.ticks(7), bottom - top, character=3):
        height = bottom - at * (bottom - top)
        marks += [line((left, height), (right, height), "grid"), text(left - 7, height + 4, name, "end", "small")]
    for at, name in spaced(x_ticks, right - left):
        marks.append(text(left + at * (right - left), bottom + 17, name, "middle", "small"))
    return [*marks, line((left, bottom), (right, bottom), "axis")]


def _curve(trial: Trial, rows: Sequence[Mapping[str, Any]], metric: str, place: Place, role: str) -> str:
    """Draw one trial's line in its unbroken parts, and a mark of how it ended."""
    parts: list[list[Mapping[str, Any]]] = [[]]
    for row in rows:
        if _finite(row, metric):
            parts[-1].append(row)
        elif parts[-1]:
            parts.append([])
    marks = []
    if role == "winner" and metric == "exact_match":
        sure = [row for part in parts for row in part if row.get("exact_match_low") is not None]
        lows = [place(row["iteration"], row["exact_match_low"]) for row in sure]
        highs = [place(row["iteration"], row.get("exact_match_high") or 0) for row in sure]
        marks.append(path([*highs, *reversed(lows)], "band"))
    title = _scored(trial, metric)
    marks += [
        path([place(row["iteration"], row[metric]) for row in part], f"curve {role}", title) for part in parts if part
    ]
    last = next(part for part in reversed(parts) if part)[-1]
    end = place(last["iteration"], last[metric])
    marks.append(end_mark(end, trial.status, role))
    if role == "winner":
        words = f"best {findings.shown_value(metric, trial.best_row(metric)[metric])}"
        marks.append(text(end[0] + 9, end[1] - 10, cut(trial.id, 10), class_="winner-name"))
        marks.append(text(end[0] + 9, end[1] + 5, words, class_="winner-name"))
    return tag("g", *marks, class_="of-trial")


def end_mark(at: Point, status: str, role: str) -> str:
    """Draw how a trial ended: a cross if it failed, a disc if it completed, else a ring."""
    x, y = at
    if status == Status.FAILED:
        return "".join(path([(x - 4, y - d), (x + 4, y + d)], f"cross {role}") for d in (4, -4))
    return tag("circle", cx=x, cy=y, r=3.5, class_=f"end {role} {'whole' if status == Status.COMPLETED else 'cut'}")


def whisker(row: Row, axis: Axis) -> str:
    """Draw a score and its interval in a cell of a table; other cells say the numbers."""
    scores = (row["exact_match_low"], row["exact_match"], row["exact_match_high"])
    start, at, end = (2 + axis.at(min(max(score, axis.low), axis.high)) * 86 for score in scores)
    span = tag("rect", x=start, y=4.0, width=max(2.0, end - start), height=10, class_="span")
    marks = [line((2, 9), (88, 9), "grid"), span, line((at, 2), (at, 16), "point")]
    return tag("svg", *marks, viewBox="0 0 90 18", class_="whisker-cell", aria_hidden="true")
