"""The pictures of a sweep's report as inline SVG, coloured by the page's style sheet. Lengths are in pixels.

Pictures that take the page's width come in two layouts, for a wide page and for a phone's.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from popgpt.metrics import METRICS
from popgpt.sweep import findings
from popgpt.sweep.axes import Axis, Label, linear_ticks, parameter_axis, score_axis, spaced
from popgpt.sweep.findings import NAMES, Comparison, Content
from popgpt.sweep.importance import Importance
from popgpt.sweep.report import Trial

WIDE, NARROW = 940, 350
SHADES = 7
SLICE = (250, 190)
NEAR = 3  # one trial in so many counts as the winner's neighbour
Point = tuple[float, float]


def tag(name: str, *children: str, **attributes: Any) -> str:
    """An element; `children` are markup, attributes are escaped. `class_` is class, `_` in names is `-`."""
    words = [
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(_short(value))}"'
        for key, value in attributes.items()
        if value is not None
    ]
    return f"<{name}{''.join(words)}>{''.join(children)}</{name}>"


def _short(value: Any) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


def text(x: float, y: float, words: str, anchor: str = "start", class_: str | None = None) -> str:
    """A line of text."""
    return tag("text", html.escape(words), x=x, y=y, text_anchor=None if anchor == "start" else anchor, class_=class_)


def line(start: Point, end: Point, class_: str) -> str:
    """A straight line."""
    return tag("line", x1=start[0], y1=start[1], x2=end[0], y2=end[1], class_=class_)


def path(points: Iterable[Point], class_: str, title: str = "") -> str:
    """A line through `points`, with words for the pointer that rests on it."""
    through = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return tag("polyline", *([tag("title", html.escape(title))] if title else []), points=through, class_=class_)


def picture(width: float, height: float, label: str, *marks: str, class_: str | None = None) -> str:
    """An SVG image. label: what it shows, for those who don't see it."""
    box = f"0 0 {_short(float(width))} {_short(float(height))}"
    return tag("svg", *marks, viewBox=box, role="img", aria_label=label, class_=class_, style=f"max-width:{width:g}px")


def value_axis(content: Content) -> Axis:
    """The axis of the sweep's metric that holds all its values."""
    metric = content["metric"]
    values = [row[metric] for t in content["trials"] for row in t["metrics"] if _finite(row, metric)]
    highs = [t["exact_match_high"] for t in content["trials"] if t.get("exact_match_high") is not None]
    return score_axis([*values, *(highs if metric == "exact_match" else [])], labeller(metric), metric != "val_loss")


def labeller(metric: str) -> Label:
    """How values of a metric are named on an axis."""

    def name(value: Any) -> str:
        return f"{value:g}" if metric == "val_loss" else f"{100 * value:.3g}%"

    return name


def _finite(row: Mapping[str, Any], metric: str) -> bool:
    value = row.get(metric)
    return isinstance(value, int | float) and abs(value) < float("inf")


def describe(trial: Trial, metric: str) -> str:
    """A trial in a line."""
    from popgpt.sweep.report import best_row, iterations

    values = ", ".join(f"{name}={findings.shown(value)}" for name, value in trial["config"].items())
    score = findings.shown_score(best_row(trial, metric), metric) or "none"
    return (
        f"trial {trial['id']}: {NAMES[metric]} {score}; {iterations(trial):,} iterations, {trial['status']}; {values}"
    )


def curves(content: Content, width: int) -> str:
    """The metric of each trial by iteration, the rungs, and the best trial in colour with its interval."""
    metric, best = content["metric"], findings.best_trial(content)
    known = {t["id"]: [row for row in t["metrics"] if metric in row and "iteration" in row] for t in content["trials"]}
    shown = [trial for trial in content["trials"] if any(_finite(row, metric) for row in known[trial["id"]])]
    if not shown:
        return ""
    x, x_ticks = _iteration_axis(content, [row["iteration"] for rows in known.values() for row in rows])
    y = value_axis(content)
    left, right, top, bottom = 50.0, width - 78.0, 44.0, (390.0 if width > NARROW else 290.0) - 46.0

    def place(iteration: float, value: float) -> Point:
        return left + x.at(iteration) * (right - left), bottom - y.at(value) * (bottom - top)

    marks = _frame(x_ticks, y, (left, right, top, bottom))
    for rung in findings.rung_iterations(content):
        if x.low <= rung <= x.high:
            at = place(rung, y.low)[0]
            marks += [line((at, top), (at, bottom), "rung"), text(at, top - 7, "rung", "middle", "small muted")]
    finalists = {finalist["id"] for finalist in content.get("finalists") or []}
    for trial in sorted(shown, key=lambda t: (best is not None and t["id"] == best["id"], t["id"] in finalists)):
        role = "winner" if best is not None and trial["id"] == best["id"] else ""
        role = role or ("finalist" if trial["id"] in finalists else "trial")
        marks.append(_curve(trial, known[trial["id"]], metric, place, role))
    marks.append(
        text((left + right) / 2, bottom + 38, f"iteration{', log scale' if x.kind == 'log' else ''}", "middle")
    )
    marks.append(text(4, 14, f"{NAMES[metric]} on val", class_="axis-name"))
    return picture(width, bottom + 46, _curves_label(content, len(shown)), *marks)


def _curves_label(content: Content, shown: int) -> str:
    best, metric = findings.best_trial(content), content["metric"]
    words = f"Learning curves of {shown} trials: {NAMES[metric]} on val by iteration."
    return f"{words} The best is {describe(best, metric)}." if best is not None else words


def _iteration_axis(content: Content, iterations: Sequence[float]) -> tuple[Axis, list[tuple[float, str]]]:
    """The axis and its named places: the rungs and the end where these are far apart, else round numbers."""
    rungs = findings.rung_iterations(content)
    low, high = min(iterations), max([*iterations, *(findings.budget(content, trial) for trial in content["trials"])])
    if rungs and low > 0 and high >= 5 * low:
        axis = Axis("log", low, high, label=_count)
        places = [at for at in (high, *rungs, low) if low <= at <= high]
    else:
        axis = Axis("linear", 0, max(high, 1), label=_count)
        places = [at for at in linear_ticks(0, max(high, 1), 6) if at == int(at)]
    return axis, [(axis.at(at), _count(at)) for at in dict.fromkeys(places)]


def _count(value: Any) -> str:
    return f"{int(value):,}"


def _frame(x_ticks: Sequence[tuple[float, str]], y: Axis, edges: tuple[float, float, float, float]) -> list[str]:
    left, right, top, bottom = edges
    marks = []
    for at, name in spaced(y.ticks(7), bottom - top, character=3):
        height = bottom - at * (bottom - top)
        marks += [line((left, height), (right, height), "grid"), text(left - 7, height + 4, name, "end", "small")]
    for at, name in spaced(x_ticks, right - left):
        marks.append(text(left + at * (right - left), bottom + 17, name, "middle", "small"))
    return [*marks, line((left, bottom), (right, bottom), "axis")]


def _curve(trial: Trial, rows: Sequence[Mapping[str, Any]], metric: str, place: Any, role: str) -> str:
    """One trial's line in its unbroken parts, and a mark of how it ended."""
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
    title = describe(trial, metric)
    marks += [
        path([place(row["iteration"], row[metric]) for row in part], f"curve {role}", title) for part in parts if part
    ]
    last = next(part for part in reversed(parts) if part)[-1]
    end = place(last["iteration"], last[metric])
    marks.append(end_mark(end, trial["status"], role))
    if role == "winner":
        words = findings.shown_value(metric, last[metric])
        marks.append(text(end[0] + 9, end[1] - 4, str(trial["id"])[:10], class_="winner-name"))
        marks.append(text(end[0] + 9, end[1] + 11, words, class_="winner-name"))
    return tag("g", *marks, class_="of-trial")


def end_mark(at: Point, status: str, role: str) -> str:
    x, y = at
    if status == "failed":
        return path([(x - 4, y - 4), (x + 4, y + 4)], f"cross {role}") + path(
            [(x - 4, y + 4), (x + 4, y - 4)], f"cross {role}"
        )
    return tag("circle", cx=x, cy=y, r=3.5, class_=f"end {role} {'whole' if status == 'completed' else 'cut'}")


def goodness(level: Comparison) -> dict[str, float]:
    """Each trial's score from 0, the worst, to 1, the best."""
    low, high = min(level.scores.values()), max(level.scores.values())
    if low == high:
        return dict.fromkeys(level.scores, 1.0)
    up = METRICS[level.metric] == "max"
    return {name: (value - low if up else high - value) / (high - low) for name, value in level.scores.items()}


def shade(good: float) -> str:
    """The class of a colour, from s0, the worst, to s6."""
    return f"s{min(SHADES - 1, int(good * SHADES))}"


def parameter_axes(content: Content, level: Comparison) -> dict[str, Axis]:
    """The axis of each swept parameter that any of the compared trials drew."""
    space = (content.get("sweep") or {}).get("space") or {}
    drawn: dict[str, list[Any]] = {}
    for trial in content["trials"]:
        for name, value in trial["config"].items() if trial["id"] in level.scores else ():
            drawn.setdefault(name, []).append(value)
    return {n: parameter_axis(space.get(n), drawn[n]) for n in findings.swept(content) if n in drawn}


ABSENT = 0.03


def parallel(content: Content, level: Comparison, width: int) -> str:
    """Each trial as a line through its parameters to its score: axes upright, on a narrow page lying one below another."""
    upright = width > NARROW
    score = score_axis(level.scores.values(), labeller(level.metric), level.metric != "val_loss")
    axes = {**parameter_axes(content, level), "": score}
    trials = [trial for trial in content["trials"] if trial["id"] in level.scores]
    gap = (width - 130.0) / max(1, len(axes) - 1) if upright else 66.0
    names = {
        name: _wrapped(name or f"{NAMES[level.metric]} at {level.iteration:,}", gap if upright else 1e9)
        for name in axes
    }
    head = 16.0 * max(len(lines) for lines in names.values()) + 12
    length = 270.0 if upright else width - 40.0

    def place(number: int, at: float) -> Point:
        return (62 + number * gap, head + (1 - at) * length) if upright else (20 + at * length, 34 + number * gap)

    good, best = goodness(level), findings.best_trial(content)
    lines = _stations(trials, axes, level, good)
    marks = [
        path(
            [place(number, at) for number, at in enumerate(lines[trial["id"]])],
            f"through {'winner' if best is not None and trial['id'] == best['id'] else shade(good[trial['id']])}",
            f"{describe(trial, content['metric'])}; at iteration {level.iteration:,}: "
            f"{NAMES[level.metric]} {findings.shown_value(level.metric, level.scores[trial['id']])}",
        )
        for trial in sorted(trials, key=lambda t: (best is not None and t["id"] == best["id"], good[t["id"]]))
    ]
    for number, (name, axis) in enumerate(axes.items()):
        lacking = bool(name) and any(name not in trial["config"] for trial in trials)
        marks += (
            _upright(place, number, axis, names[name], lacking)
            if upright
            else _lying(place, number, axis, names[name], lacking)
        )
    label = f"Parallel coordinates of {len(trials)} trials: each is a line through its parameters to its {NAMES[level.metric]} at iteration {level.iteration:,}."
    height = head + length + 16 if upright else 34 + (len(axes) - 1) * gap + 32
    return picture(width, height, label, *marks)


def _stations(
    trials: Sequence[Trial], axes: Mapping[str, Axis], level: Comparison, good: Mapping[str, float]
) -> dict[str, list[float]]:
    """Where each trial's line crosses each axis; at a choice those that share it are spread, the best on top."""
    crossed: dict[str, list[float]] = {trial["id"]: [] for trial in trials}
    for name, axis in axes.items():
        lacking = bool(name) and any(name not in trial["config"] for trial in trials)
        together: dict[Any, list[str]] = {}
        for trial in sorted(trials, key=lambda t: good[t["id"]]):
            value = trial["config"].get(name) if name else level.scores[trial["id"]]
            at = raised(axis.at(value), lacking) if not name or name in trial["config"] else ABSENT
            crossed[trial["id"]].append(at)
            together.setdefault(at, []).append(trial["id"])
        if axis.kind == "choice":
            for at, ids in together.items():
                for place, trial_id in enumerate(ids):
                    room = 0.5 / len(axis.values) if at != ABSENT else 0.04
                    crossed[trial_id][-1] = at + room * ((place + 0.5) / len(ids) - 0.5)
    return crossed


def raised(at: float, lacking: bool) -> float:
    """A place on an axis whose lower end is kept for trials that lack the parameter."""
    return 0.16 + 0.84 * at if lacking else at


def _named(axis: Axis, lacking: bool, most: int) -> list[tuple[float, str]]:
    ticks = [(raised(at, lacking), name) for at, name in axis.ticks(most)]
    return [*([(ABSENT, "not drawn")] if lacking else []), *ticks]


def _upright(place: Any, number: int, axis: Axis, name: Sequence[str], lacking: bool) -> list[str]:
    (x, bottom), (_, top) = place(number, 0), place(number, 1)
    marks = [line((x, bottom), (x, top), "axis")]
    marks += [text(x, top - 14 - 15 * (len(name) - 1 - i), part, "middle", "axis-name") for i, part in enumerate(name)]
    for at, words in spaced(_named(axis, lacking, 6), bottom - top, character=3):
        y = bottom - at * (bottom - top)
        marks += [line((x - 4, y), (x, y), "axis"), text(x - 7, y + 4, _cut(words, 16), "end", "small halo")]
    return marks


def _lying(place: Any, number: int, axis: Axis, name: Sequence[str], lacking: bool) -> list[str]:
    (left, y), (right, _) = place(number, 0), place(number, 1)
    marks = [line((left, y), (right, y), "axis"), text(left - 8, y - 8, " ".join(name), class_="axis-name halo")]
    for at, words in spaced(_named(axis, lacking, 5), right - left):
        x = left + at * (right - left)
        marks += [line((x, y), (x, y + 4), "axis"), text(x, y + 17, _cut(words, 14), "middle", "small halo")]
    return marks


def _cut(words: str, most: int) -> str:
    return words if len(words) <= most else words[: most - 1] + "…"


def _wrapped(name: str, width: float) -> list[str]:
    """A parameter's name in lines that fit `width`, broken at underscores and spaces."""
    lines: list[str] = []
    for part in name.replace("_", "_\0").replace(" ", " \0").split("\0"):
        if lines and len(lines[-1] + part) * 6.8 <= width - 12:
            lines[-1] += part
        else:
            lines.append(part)
    return [part.rstrip() for part in lines]


def slice_of(content: Content, level: Comparison, name: str, axis: Axis) -> str:
    """The scores by one parameter; the trials that are near the best one in the others are filled."""
    trials = [t for t in content["trials"] if t["id"] in level.scores and name in t["config"]]
    y = score_axis(level.scores.values(), labeller(level.metric), level.metric != "val_loss")
    (width, height), best = SLICE, findings.best_trial(content)
    left, right, top, bottom = 44.0, width - 12.0, 12.0, height - 42.0
    near = neighbours(content, level, name)
    marks = _frame(axis.ticks(4), y, (left, right, top, bottom))
    shared: dict[float, list[str]] = {}
    for trial in trials:
        shared.setdefault(axis.at(trial["config"][name]), []).append(trial["id"])
    for trial in sorted(trials, key=lambda t: (best is not None and t["id"] == best["id"], t["id"] in near)):
        at = axis.at(trial["config"][name])
        if axis.kind == "choice":
            ids = shared[at]
            at += 0.5 / len(axis.values) * ((ids.index(trial["id"]) + 0.5) / len(ids) - 0.5)
        x = left + at * (right - left)
        height_of = bottom - y.at(level.scores[trial["id"]]) * (bottom - top)
        winner = best is not None and trial["id"] == best["id"]
        role = "winner" if winner else "near" if trial["id"] in near else "far"
        words = f"trial {trial['id']}: {name}={findings.shown(trial['config'][name])}, {NAMES[level.metric]} {findings.shown_value(level.metric, level.scores[trial['id']])}"
        dot = {"cx": x, "cy": height_of, "r": 6.0 if winner else 4.0, "class_": f"dot {role}"}
        marks.append(tag("circle", tag("title", html.escape(words)), **dot))
    marks.append(text((left + right) / 2, height - 8, _cut(name, 32), "middle", "axis-name"))
    label = f"{NAMES[level.metric]} at iteration {level.iteration:,} of {len(trials)} trials by {name}."
    return picture(width, height, label, *marks)


def neighbours(content: Content, level: Comparison, name: str) -> set[str]:
    """The third of the compared trials that are nearest to the best one in all parameters but `name`.

    Near as by Gower (1971): the mean over the parameters of the distance on the axis; 1 for choices that differ and
    where only one of the two has the parameter.
    """
    best = findings.best_trial(content)
    if best is None:
        return set()
    axes = parameter_axes(content, level)
    others = [trial for trial in content["trials"] if trial["id"] in level.scores and trial["id"] != best["id"]]

    def far(trial: Trial) -> float:
        return sum(_apart(axis, trial, best, other) for other, axis in axes.items() if other != name)

    nearest = sorted(others, key=lambda trial: (far(trial), str(trial["id"])))
    return {trial["id"] for trial in nearest[: -(-len(others) // NEAR)]}


def _apart(axis: Axis, one: Trial, other: Trial, name: str) -> float:
    if name not in one["config"] or name not in other["config"]:
        return float((name in one["config"]) != (name in other["config"]))
    places = axis.at(one["config"][name]), axis.at(other["config"][name])
    return float(places[0] != places[1]) if axis.kind == "choice" else abs(places[0] - places[1])


def bars(parameters: Sequence[Importance], width: int) -> str:
    """The importance of each parameter, with two standard errors to each side."""
    beside = width > NARROW
    left, row = (210.0, 30.0) if beside else (8.0, 46.0)
    right = width - 60.0
    reach = [p.share + 2 * p.error for p in parameters]
    axis = Axis(
        "linear", min(0.0, *(p.share - 2 * p.error for p in parameters)), max([0.05, *reach]), label=labeller("")
    )
    bottom = 8 + row * len(parameters)

    def place(share: float) -> float:
        return left + axis.at(share) * (right - left)

    marks = []
    for at, words in spaced(axis.ticks(6), right - left):
        x = left + at * (right - left)
        marks += [line((x, 4), (x, bottom), "grid"), text(x, bottom + 16, words, "middle", "small")]
    for number, each in enumerate(parameters):
        y = 8 + row * number + (6 if beside else 20)
        name = _cut(each.parameter, 28 if beside else 40)
        marks.append(
            text(left - 12, y + 12, name, "end", "axis-name") if beside else text(left, y - 5, name, class_="axis-name")
        )
        start, end = sorted((place(0), place(each.share)))
        marks.append(tag("rect", x=start, y=y, width=max(1.0, end - start), height=16, class_="bar"))
        low, high = place(each.share - 2 * each.error), place(each.share + 2 * each.error)
        marks += [line((low, y + 8), (high, y + 8), "whisker"), line((low, y + 4), (low, y + 12), "whisker")]
        marks += [line((high, y + 4), (high, y + 12), "whisker")]
        marks.append(text(width - 4, y + 12, findings.percent(each.share, 0), "end", "small"))
    marks.append(line((place(0), 4), (place(0), bottom), "axis"))
    marks.append(text((left + right) / 2, bottom + 36, "share of the variance of the scores", "middle"))
    label = "Importance: " + ", ".join(f"{p.parameter} {findings.percent(p.share, 0)}" for p in parameters) + "."
    return picture(width, bottom + 44, label, *marks)


def whisker(value: float, low: float, high: float, axis: Axis) -> str:
    """A score and its interval in a cell of a table; other cells say the numbers."""
    start, at, end = (2 + axis.at(min(max(number, axis.low), axis.high)) * 86 for number in (low, value, high))
    span = tag("rect", x=start, y=4.0, width=max(2.0, end - start), height=10, class_="span")
    marks = [line((2, 9), (88, 9), "grid"), span, line((at, 2), (at, 16), "point")]
    return tag("svg", *marks, viewBox="0 0 90 18", class_="whisker-cell", aria_hidden="true")
