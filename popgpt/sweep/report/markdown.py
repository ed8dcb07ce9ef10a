"""OUT/report.md: what a sweep found, as text and tables."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from popgpt.sweep.content import Content
from popgpt.sweep.ranking import ranked
from popgpt.sweep.report import findings
from popgpt.sweep.report.importance import Study


def markdown(content: Content, study: Study, out_dir: str) -> str:
    """Return the report of a sweep. out_dir: the sweep's folder, for the commands and the title."""
    name = out_dir.rstrip("/").split("/")[-1]
    lead, *rest = findings.answer(content)
    command = findings.command(content, out_dir)
    again = ["## Train the best again", f"```\n{command}\n```"] if command else []
    parts = [f"# Sweep {escaped(name)}", f"**{escaped(lead)}**", *map(escaped, rest), *again]
    parts += [*_finalists(content), *_trials(content), *_importance(content, study), *_compute(content)]
    return "\n\n".join(filter(None, parts)) + "\n\nThe pictures are in report.html.\n"


def escaped(words: Any) -> str:
    """Return the text that Markdown shows as `words`, in one line, also inside a table."""
    line = " ".join(str(words).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|[\\`*\[\]#|~]", lambda found: "\\" + found[0], line)


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table; "" without rows."""
    lines = [heads, ["---"] * len(heads), *rows] if rows else []
    return "\n".join(f"| {' | '.join(cell if cell == '---' else escaped(cell) for cell in line)} |" for line in lines)


def _finalists(content: Content) -> list[str]:
    metric, rows = content.metric, []
    for finalist in content.finalists:
        seeds = ", ".join(f"{run['seed']}: {findings.shown_score(run, metric)}" for run in finalist["seeds"])
        rows.append([finalist["id"], findings.shown_value(metric, finalist["mean"], 2), seeds])
    interval = ", with its 95% interval" if metric == "exact_match" else ""
    heads = ["trial", f"mean {findings.on_val(metric)}", f"each seed{interval}"]
    words = findings.about_finalists(content)
    return ["## Finalists", words, table(heads, rows)] if words else []


def _trials(content: Content) -> list[str]:
    names, metric = content.swept, content.metric
    rows = []
    for number, trial in enumerate(ranked(content.trials, metric), 1):
        row = trial.best_row(metric)
        values, score = [findings.parameter(trial, name) for name in names], findings.shown_score(row, metric)
        rank = number if row else ""
        rows.append([rank, trial.id, *values, score, f"{trial.iterations:,}", trial.described_status])
    interval = " (95% interval)" if metric == "exact_match" else ""
    heads = ["rank", "trial", *names, f"{findings.on_val(metric)}{interval}", "iterations", "status"]
    return ["## Trials, best first", table(heads, rows)] if rows else []


def _importance(content: Content, study: Study) -> list[str]:
    level = findings.comparison(content)
    if level is None or not content.swept:
        return []
    rows = [
        [each.parameter, f"{findings.percent(each.share, 0)} ± {findings.percent(2 * each.error, 0)}", each.trials]
        for each in study.parameters
    ]
    heads = ["parameter", "share of the variance (± two standard errors)", "trials that drew it"]
    return ["## What matters", escaped(findings.compared(content, level)), escaped(study.note), table(heads, rows)]


def _compute(content: Content) -> list[str]:
    spent = findings.compute(content)
    if not spent.full:
        return []
    words = f"{spent.run:,} iterations of {spent.full:,}."
    if spent.saved:
        words += f" ASHA saved {spent.saved:,} ({findings.percent(spent.saved / spent.full, 0)})."
    if spent.lost:
        words += f" {spent.lost:,} were not run, of trials that failed or are still open."
    if spent.train_seconds is not None:
        words += f" Training steps took {findings.duration(spent.train_seconds)}"
        words += f"; about {findings.duration(spent.seconds_saved)} were saved." if spent.saved else "."
    if spent.repeats:
        words += f" The finalists' further seeds took {spent.repeats:,} iterations beside these."
    return ["## Compute", words, table(["rung, iteration", "trials that reached it", "stopped there"], spent.rungs)]
