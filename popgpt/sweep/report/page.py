"""OUT/report.html: what a sweep found on one page that needs nothing else, neither a network nor scripts."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

from popgpt.metrics.metric import METRICS
from popgpt.sweep.content import Content
from popgpt.sweep.events import ENDED, Status
from popgpt.sweep.ranking import ranked
from popgpt.sweep.report import curves, effects, findings
from popgpt.sweep.report.axes import Axis
from popgpt.sweep.report.findings import Comparison
from popgpt.sweep.report.importance import Study
from popgpt.sweep.report.style import CSS
from popgpt.sweep.report.svg import NARROW, WIDE, tag
from popgpt.sweep.trial import Trial

Heads = list[tuple[str, str | None]]
"""The names of a table's columns and their classes."""
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(content: Content, study: Study, out_dir: str) -> str:
    """Return the page of a sweep. out_dir: the sweep's folder, for the commands and the title."""
    name = out_dir.rstrip("/").split("/")[-1]
    level = findings.comparison(content)
    sections = [
        _header(content, name),
        _answer(content),
        _again(content, out_dir),
        _finalists(content),
        _trials(content),
        _curves(content),
        _parameters(content, level, study),
        _compute(content),
    ]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{html.escape(name)}: sweep report</title><style>{CSS}</style>"
    )
    body = "\n".join(filter(None, sections))
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body><main>\n{body}\n</main></body></html>\n'


def _section(title: str, *content: str) -> str:
    return tag("section", tag("h2", title), *content)


def _p(words: str, class_: str | None = None) -> str:
    return tag("p", html.escape(words), class_=class_)


def _header(content: Content, name: str) -> str:
    trials = len(content.trials)
    counted = f"{trials} trial{'' if trials == 1 else 's'}" + (f": {findings.statuses(content)}" if trials else "")
    words = _p(f"{counted}. Ranked by {findings.on_val(content.metric)}.")
    return tag("header", tag("h1", f"Sweep {html.escape(name)}"), words)


def _answer(content: Content) -> str:
    lead, *rest = findings.answer(content)
    class_ = "answer" if content.best.get("test") else "answer open"
    return tag("div", _p(lead, "lead"), *map(_p, rest), class_=class_)


def _again(content: Content, out_dir: str) -> str:
    command = findings.command(content, out_dir)
    if command is None:
        return ""
    config = findings.config_yaml(content)
    kept = ""
    if config is not None:
        how = "Save this as best.yaml, and train with: python -m popgpt.train best.yaml out_dir=out/again"
        title = tag("summary", "The config itself, should the sweep's folder be gone")
        kept = tag("details", title, _p(how, "note"), tag("pre", html.escape(config)))
    return _section("Train the best again", tag("pre", tag("code", html.escape(command))), kept)


def _finalists(content: Content) -> str:
    words, metric = findings.about_finalists(content), content.metric
    if not content.finalists:
        return _section("Finalists", _p(words, "note")) if words else ""
    seeds = list(dict.fromkeys(run["seed"] for finalist in content.finalists for run in finalist["seeds"]))
    rows = []
    for finalist in content.finalists:
        scores = {run["seed"]: findings.shown_score(run, metric) for run in finalist["seeds"]}
        cells = [_td(finalist["id"], "words"), _td(findings.shown_value(metric, finalist["mean"], 2))]
        cells += [_td(scores.get(seed, "")) for seed in seeds]
        rows.append(tag("tr", *cells, class_="winner" if finalist["id"] == content.best.get("id") else None))
    heads: Heads = [("trial", "words"), (f"mean {findings.on_val(metric)}", "name")]
    heads += [(f"seed {seed}", None) for seed in seeds]
    return _section("Finalists", _p(words, "note"), _table("Finalists", heads, rows, "small"))


def _td(words: Any, class_: str | None = None) -> str:
    return tag("td", html.escape(str(words)), class_=class_)


def _table(label: str, heads: Heads, rows: list[str], class_: str | None = None) -> str:
    named = [(html.escape(words).replace("_", "_<wbr>"), class_) for words, class_ in heads]
    head = tag("tr", *(tag("th", words, class_=class_, scope="col") for words, class_ in named))
    table = tag("table", tag("thead", head), tag("tbody", *rows), class_=class_)
    return tag("div", table, class_="scroll", tabindex=0, role="region", aria_label=label)


def _trials(content: Content) -> str:
    if not content.trials:
        return ""
    names, metric = content.swept, content.metric
    others = [other for other in METRICS if other != metric]
    heads: Heads = [("rank", None), ("trial", "words"), (METRICS[metric].label, None)]
    heads += [("", "spark"), ("95% interval", "words")] if metric == "exact_match" else []
    heads += [("iterations", None), ("status", "words"), *((name, "name") for name in names)]
    heads += [*((METRICS[other].label, "name") for other in others), ("reason", "words")]
    axis, numbered = curves.value_axis(content), enumerate(ranked(content.trials, metric), 1)
    rows = [_trial_row(number, trial, content, axis) for number, trial in numbered]
    note = "Each at its best evaluation on val. These numbers were selected on, so the highest are likely too good."
    return _section("Trials, best first", _p(note, "note"), _table("Trials, best first", heads, rows, "trials"))


def _trial_row(number: int, trial: Trial, content: Content, axis: Axis) -> str:
    metric, row = content.metric, trial.best_row(content.metric)
    cells = [_td(number if row else ""), _td(trial.id, "words"), _td(findings.shown_value(metric, row.get(metric)))]
    if metric == "exact_match":
        limits = findings.shown_limits(row)
        cells += [tag("td", curves.whisker(row, axis) if limits else "", class_="spark"), _td(limits, "words")]
    cells += [_td(f"{trial.iterations:,}"), _td(trial.status, "words")]
    cells += [_td(findings.parameter(trial, name)) for name in content.swept]
    cells += [_td(findings.shown_value(other, row.get(other))) for other in METRICS if other != metric]
    cells.append(_td(trial.reason or "", "reason"))
    return tag("tr", *cells, class_="winner" if trial.id == content.best.get("id") else None)


def _figure(draw: Callable[[int], str], caption: str) -> str:
    drawn = tag("div", draw(WIDE), class_="wide") + tag("div", draw(NARROW), class_="narrow")
    return tag("figure", drawn, tag("figcaption", caption))


def _curves(content: Content) -> str:
    if not curves.curves(content, WIDE):
        return ""
    return _section("Learning curves", _figure(lambda width: curves.curves(content, width), _curve_keys(content)))


def _curve_keys(content: Content) -> str:
    band = " and its 95% interval" if content.metric == "exact_match" else ""
    keys = [_key("var(--accent)", f"best trial{band}")]
    if content.finalists:
        keys.append(_key("var(--mid)", "finalists"))
    if len(content.trials) > 1:
        keys.append(_key("var(--soft)", "other trials"))
    for status in ENDED:
        if any(trial.status == status for trial in content.trials):
            mark = curves.end_mark((7.0, 6.0), status, "trial")
            drawn = tag("svg", mark, viewBox="0 0 14 12", aria_hidden="true")
            also = " or still open" if status == Status.STOPPED and content.open_runs else ""
            keys.append(tag("span", drawn, status + also, class_="item"))
    if content.rungs:
        factor = content.definition["asha"]["reduction_factor"]
        numbers = ", ".join(f"{rung:,}" for rung in content.rungs)
        keys.append(tag("span", f"At a rung ({numbers}) about one trial in {factor} goes on.", class_="long"))
    return tag("span", *keys, class_="keys")


def _key(colour: str, words: str) -> str:
    return tag("span", tag("span", class_="key", style=f"border-color:{colour}"), words, class_="item")


def _parameters(content: Content, level: Comparison | None, study: Study) -> str:
    if level is None or not content.swept:
        return ""
    view = effects.scene(content, level)
    ordered = sorted(level.scores.values(), reverse=METRICS[level.metric].direction == "min")
    worst, best = (findings.shown_value(level.metric, value) for value in (ordered[0], ordered[-1]))
    colours = f"{METRICS[level.metric].label} {worst}{tag('span', class_='ramp')}{best}"
    keys = tag("span", f"A line is a trial: {colours}. ", _key("var(--accent)", "best trial"), class_="keys")
    slices = [effects.slice_of(view, name) for name in view.axes]
    near = "Orange: the best trial. Filled: its neighbourhood, the third of the trials nearest in all other parameters."
    return _section(
        "What the parameters do",
        _p(findings.compared(content, level), "note"),
        tag("h3", "All together"),
        _figure(lambda width: effects.parallel(view, width), keys),
        tag("h3", "What matters"),
        _importance(study),
        tag("h3", "One at a time"),
        tag("figure", tag("div", *slices, class_="slices"), tag("figcaption", near)),
    )


def _importance(study: Study) -> str:
    if not study.parameters:
        return _p(study.note)
    how = (
        "How much of the variance of the scores is no longer predicted once a parameter's values are shuffled: "
        "permutation importance of a random forest, on trials left out of its fit. Whiskers: two standard errors; "
        "one that crosses 0 can't be told from nothing."
    )
    return _p(study.note) + _figure(lambda width: effects.bars(study.parameters, width), how)


def _compute(content: Content) -> str:
    spent = findings.compute(content)
    if not spent.full:
        return ""
    facts = [("iterations run", f"{spent.run:,}"), ("every trial to its end", f"{spent.full:,}")]
    if spent.train_seconds is not None:
        facts.append(("time in training steps", findings.duration(spent.train_seconds)))
        if spent.seconds_saved >= 1:
            facts.append(("saved, about", findings.duration(spent.seconds_saved)))
    if spent.repeats:
        facts.append(("iterations of further seeds, beside these", f"{spent.repeats:,}"))
    tiles = tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in facts), class_="facts")
    rows = [tag("tr", _td(f"{rung:,}"), _td(reached), _td(stopped)) for rung, reached, stopped in spent.rungs]
    heads: Heads = [("rung, iteration", None), ("trials that reached it", None), ("stopped there", None)]
    table = _table("Rungs", heads, rows, "small") if rows else ""
    return _section("Compute", tiles, _budget(spent), table)


def _budget(spent: findings.Compute) -> str:
    """What the full budget went into, as a bar in parts."""
    parts = [
        ("var(--bar)", spent.run, "run"),
        ("var(--line)", spent.saved, "saved by ASHA"),
        ("var(--soft)", spent.lost, "not run, of trials that failed or are still open"),
    ]
    shares = [(f"background:{colour}", n, n / spent.full, words) for colour, n, words in parts if n]
    bar = [tag("div", style=f"{colour};width:{100 * share:.2f}%") for colour, _, share, _ in shares]
    keys = [
        tag("span", tag("span", class_="swatch", style=colour), f"{n:,} {words} ({share:.0%})", class_="item")
        for colour, n, share, words in shares
    ]
    return tag("div", *bar, class_="budget", aria_hidden="true") + tag("p", *keys, class_="keys note")
