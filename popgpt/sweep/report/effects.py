"""What the parameters do, as pictures: parallel coordinates, slices, importance."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from popgpt.metrics.metric import METRICS
from popgpt.sweep.content import Content
from popgpt.sweep.report import findings
from popgpt.sweep.report.axes import Axis, parameter_axis, score_axis, spaced
from popgpt.sweep.report.curves import axis_label, describe, frame
from popgpt.sweep.report.findings import Comparison
from popgpt.sweep.report.importance import Importance
from popgpt.sweep.report.svg import NARROW, Point, cut, line, path, picture, tag, text, wrapped
from popgpt.sweep.trial import Trial

ABSENT = 0.03  # where a line crosses the axis of a parameter that its trial did not draw
NEAR = 3  # one trial in so many counts as the winner's neighbour
SHADES = 7
SLICE = (250, 190)

Place = Callable[[int, float], Point]


@dataclass(frozen=True)
class Scene:
    """The trials that compare, and the axes to draw them on."""

    level: Comparison
    trials: list[Trial]
    best: Trial | None
    axes: dict[str, Axis]  # of each parameter that any of the trials drew
    score: Axis
    good: dict[str, float]  # each trial's score from 0, the worst, to 1, the best

    def is_best(self, trial: Trial) -> bool:
        """Return whether the trial is the best one of the sweep."""
        return self.best is not None and trial.id == self.best.id

    def describe_score(self, trial: Trial) -> str:
        """Return a trial's score in words."""
        value = findings.shown_value(self.level.metric, self.level.scores[trial.id])
        return f"{METRICS[self.level.metric].label} {value} at iteration {self.level.iteration:,}"

    def is_lacking(self, name: str) -> bool:
        """Return whether some of the trials did not draw the parameter."""
        return name in self.axes and any(name not in trial.config for trial in self.trials)


def scene(content: Content, level: Comparison) -> Scene:
    """Return the trials of a comparison and their axes. Its scores are not empty."""
    trials = [trial for trial in content.trials if trial.id in level.scores]
    drawn = {name: [trial.config[name] for trial in trials if name in trial.config] for name in content.swept}
    axes = {name: parameter_axis(content.space.get(name), values) for name, values in drawn.items() if values}
    share = METRICS[level.metric].is_share
    score = score_axis(level.scores.values(), axis_label(share), share, from_zero=False)
    return Scene(level, trials, content.best_trial, axes, score, goodness(level))


def goodness(level: Comparison) -> dict[str, float]:
    """Return each trial's score from 0, the worst, to 1, the best."""
    low, high = min(level.scores.values()), max(level.scores.values())
    if low == high:
        return dict.fromkeys(level.scores, 1.0)
    up = METRICS[level.metric].direction == "max"
    return {name: (value - low if up else high - value) / (high - low) for name, value in level.scores.items()}


def shade(good: float) -> str:
    """Return the class of a colour, from s0, the worst, to s6."""
    return f"s{min(SHADES - 1, int(good * SHADES))}"


def parallel(view: Scene, width: int) -> str:
    """Draw each trial as a line through its parameters to its score: the axes upright, on a phone lying."""
    upright, axes = width > NARROW, {**view.axes, "": view.score}
    first = max(len(name) for _, name in next(iter(axes.values())).ticks(6))
    left = 62.0 if upright and first < 8 else 110.0 if upright else 20.0
    gap = (width - 68.0 - left) / max(1, len(axes) - 1) if upright else 66.0
    at_score = f"{METRICS[view.level.metric].label} at {view.level.iteration:,}"
    names = [wrapped(name or at_score, gap) if upright else [name or at_score] for name in axes]
    head = 16.0 * max(map(len, names)) + 12 if upright else 34.0
    length = 270.0 if upright else width - 40.0

    def place(number: int, at: float) -> Point:
        return (left + number * gap, head + (1 - at) * length) if upright else (left + at * length, head + number * gap)

    crossed = stations(view, axes)
    marks = []
    for trial in sorted(view.trials, key=lambda t: (view.is_best(t), view.good[t.id])):
        role = "winner" if view.is_best(trial) else shade(view.good[trial.id])
        points = [place(number, at) for number, at in enumerate(crossed[trial.id])]
        marks.append(path(points, f"through {role}", f"{describe(trial)}; {view.describe_score(trial)}"))
    draw = _upright if upright else _lying
    for number, (name, axis) in enumerate(axes.items()):
        ticks = _ticks(axis, view.is_lacking(name), 6 if upright else 5)
        marks += draw(place, number, names[number], ticks, not name)
    label = f"Parallel coordinates of {len(view.trials)} trials: each a line through its parameters to its {at_score}."
    return picture(width, head + length + 16 if upright else head + (len(axes) - 1) * gap + 32, label, *marks)


def stations(view: Scene, axes: Mapping[str, Axis]) -> dict[str, list[float]]:
    """Return where each trial's line crosses each axis. Those that share a choice are spread, the best on top."""
    crossed: dict[str, list[float]] = {trial.id: [] for trial in view.trials}
    for name, axis in axes.items():
        lacking = view.is_lacking(name)
        together: dict[float, list[str]] = {}
        for trial in sorted(view.trials, key=lambda t: view.good[t.id]):
            value = trial.config.get(name) if name else view.level.scores[trial.id]
            at = ABSENT if name and name not in trial.config else _raised(axis.at(value), lacking)
            together.setdefault(at, []).append(trial.id)
        for at, ids in together.items():
            room = 0.0 if axis.kind != "choice" else 0.04 if at == ABSENT else 0.5 / len(axis.values)
            for trial_id, place in zip(ids, spread(at, room, len(ids)), strict=True):
                crossed[trial_id].append(place)
    return crossed


def spread(at: float, room: float, n: int) -> list[float]:
    """Return `n` places next to each other in `room` around `at`."""
    return [at + room * ((number + 0.5) / n - 0.5) for number in range(n)]


def _raised(at: float, lacking: bool) -> float:
    """Return a place on an axis whose lower end is kept for trials that lack the parameter."""
    return 0.16 + 0.84 * at if lacking else at


def _ticks(axis: Axis, lacking: bool, most: int) -> list[tuple[float, str]]:
    ticks = [(_raised(at, lacking), name) for at, name in axis.ticks(most)]
    return [*([(ABSENT, "not drawn")] if lacking else []), *ticks]


def _upright(
    place: Place, number: int, name: Sequence[str], ticks: Sequence[tuple[float, str]], last: bool
) -> list[str]:
    (x, bottom), (_, top) = place(number, 0), place(number, 1)
    marks = [line((x, bottom), (x, top), "axis")]
    marks += [text(x, top - 14 - 15 * (len(name) - 1 - i), part, "middle", "axis-name") for i, part in enumerate(name)]
    for at, words in spaced(ticks, bottom - top, character=3):
        y = bottom - at * (bottom - top)
        side, anchor = (1, "start") if last else (-1, "end")
        marks.append(line((x + 4 * side, y), (x, y), "axis"))
        marks.append(text(x + 7 * side, y + 4, cut(words, 16), anchor, "small halo"))
    return marks


def _lying(place: Place, number: int, name: Sequence[str], ticks: Sequence[tuple[float, str]], last: bool) -> list[str]:
    (left, y), (right, _) = place(number, 0), place(number, 1)
    marks = [line((left, y), (right, y), "axis"), text(left - 8, y - 8, cut(name[0], 44), class_="axis-name halo")]
    for at, words in spaced(((at, cut(words, 14)) for at, words in ticks), right - left):
        x = left + at * (right - left)
        marks += [line((x, y), (x, y + 4), "axis"), text(x, y + 17, words, "middle", "small halo")]
    return marks


def slice_of(view: Scene, name: str) -> str:
    """Draw the scores by one parameter; the trials that are near the best one in the others are filled."""
    trials, axis, near = [t for t in view.trials if name in t.config], view.axes[name], neighbours(view, name)
    width, height = SLICE
    left, right, top, bottom = 44.0, width - 12.0, 12.0, height - 42.0
    together: dict[float, list[str]] = {}
    for trial in trials:
        together.setdefault(axis.at(trial.config[name]), []).append(trial.id)
    room = 0.5 / len(axis.values) if axis.kind == "choice" else 0.0
    across = {
        each: place for at, ids in together.items() for each, place in zip(ids, spread(at, room, len(ids)), strict=True)
    }
    marks = frame(axis.ticks(4), view.score, (left, right, top, bottom))
    for trial in sorted(trials, key=lambda t: (view.is_best(t), t.id in near)):
        best = view.is_best(trial)
        role = "winner" if best else "near" if trial.id in near else "far"
        words = f"trial {trial.id}: {name}={findings.parameter(trial, name)}, {view.describe_score(trial)}"
        x = left + across[trial.id] * (right - left)
        y = bottom - view.score.at(view.level.scores[trial.id]) * (bottom - top)
        title = tag("title", html.escape(words))
        marks.append(tag("circle", title, cx=x, cy=y, r=6 if best else 4, class_=f"dot {role}"))
    marks.append(text((left + right) / 2, height - 8, cut(name, 32), "middle", "axis-name"))
    return picture(width, height, f"{view.level.title} of {len(trials)} trials by {name}.", *marks)


def neighbours(view: Scene, name: str) -> set[str]:
    """Return the third of the compared trials that are nearest to the best one in all parameters but `name`.

    The distance is Gower's (1971, A general coefficient of similarity): the sum over the parameters of the distance on
    the axis; it is 1 if choices differ or if only one of the two trials drew the parameter.
    """
    best = view.best
    if best is None:
        return set()
    rest = [trial for trial in view.trials if not view.is_best(trial)]

    def distance(trial: Trial) -> float:
        return sum(_apart(axis, trial, best, other) for other, axis in view.axes.items() if other != name)

    nearest = sorted(rest, key=lambda trial: (distance(trial), trial.id))
    return {trial.id for trial in nearest[: -(-len(rest) // NEAR)]}


def _apart(axis: Axis, one: Trial, other: Trial, name: str) -> float:
    if name not in one.config or name not in other.config:
        return float((name in one.config) != (name in other.config))
    if axis.kind == "choice":
        return float(findings.parameter(one, name) != findings.parameter(other, name))
    return abs(axis.at(one.config[name]) - axis.at(other.config[name]))


def bars(parameters: Sequence[Importance], width: int) -> str:
    """Draw the importance of each parameter, one at least, with two standard errors to each side."""
    beside = width > NARROW
    left, row = (210.0, 30.0) if beside else (8.0, 46.0)
    right, bottom = width - 60.0, 8 + row * len(parameters)
    lows, highs = zip(*((p.share - 2 * p.error, p.share + 2 * p.error) for p in parameters), strict=True)
    axis = Axis("linear", min(0.0, *lows), max(0.05, *highs), label=axis_label(share=True))
    marks = []
    for at, words in spaced(axis.ticks(6), right - left):
        x = left + at * (right - left)
        marks += [line((x, 4), (x, bottom), "grid"), text(x, bottom + 16, words, "middle", "small")]
    for number, each in enumerate(parameters):
        y = 16 + row * number + (6 if beside else 20)
        name = cut(each.parameter, 28 if beside else 40)
        at_name = (left - 12, y + 4, name, "end", "axis-name") if beside else (left, y - 13, name, "start", "axis-name")
        zero, low, share, high = (
            left + axis.at(at) * (right - left) for at in (0, lows[number], each.share, highs[number])
        )
        size = {"x": min(zero, share), "width": max(1.0, abs(share - zero))}
        marks += [text(*at_name), tag("rect", y=y - 8, height=16, class_="bar", **size)]
        ends = [line((x, y - 4), (x, y + 4), "whisker") for x in (low, high)]
        marks += [line((low, y), (high, y), "whisker"), *ends]
        marks.append(text(width - 4, y + 4, findings.percent(each.share, 0), "end", "small"))
    zero = left + axis.at(0) * (right - left)
    marks.append(line((zero, 4), (zero, bottom), "axis"))
    marks.append(text((left + right) / 2, bottom + 36, "share of the variance of the scores", "middle"))
    label = "Importance: " + ", ".join(f"{p.parameter} {findings.percent(p.share, 0)}" for p in parameters) + "."
    return picture(width, bottom + 44, label, *marks)
