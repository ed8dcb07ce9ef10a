"""The trials of a sweep as tables for a terminal: what fits its width, and its height where that is asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from popgpt.metrics.metric import METRICS
from popgpt.sweep.events import Status
from popgpt.sweep.trial import Trial
from popgpt.text.printable import cut, printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleRenderable
    from rich.table import Table

GAP = 2
LETTERS = (5, 3)  # of a word in a header that is folded, at least: at first, and where there is less room
SHOWN_REASONS = 10


@dataclass(frozen=True)
class Column:
    """A column: its header, of one line or several, and a cell for each trial."""

    header: str
    cells: list[str]
    right: bool = True

    @cached_property
    def width(self) -> int:
        from rich.cells import cell_len

        return max(map(cell_len, [*self.header.split("\n"), *self.cells]))


def table(ranked: Sequence[Trial], metric: str, width: int | None = None) -> Table:
    """Return the table of the trials in the given order, of at most `width`; see `fitting`."""
    columns = full(ranked, metric) if width is None else fitting(ranked, metric, width)
    return drawn(columns, range(len(ranked)))


def drawn(columns: Sequence[Column], rows: Iterable[int]) -> Table:
    """Return the table of these rows of the columns. The last column may take several lines."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False)
    high = max(column.header.count("\n") for column in columns)
    for column in columns:
        last = column is columns[-1]
        shown.add_column(
            "\n" * (high - column.header.count("\n")) + column.header,
            justify="right" if column.right else "left",
            no_wrap=not last,
            overflow="fold" if last else "ellipsis",
        )
    for row in rows:
        shown.add_row(*(Text(column.cells[row]) for column in columns))
    return shown


def full(ranked: Sequence[Trial], metric: str) -> list[Column]:
    """Return every column: what was swept, how far each trial got, its scores, its status with the reason."""
    identifiers = Column("trial", [printable(trial.id) for trial in ranked], right=False)
    swept = [Column(printable(name), values(ranked, name)) for name in swept_names(ranked)]
    status = Column("status", [printable(trial.described_status) for trial in ranked], right=False)
    return [identifiers, *swept, *scores(ranked, metric).values(), status]


def fitting(ranked: Sequence[Trial], metric: str, width: int) -> list[Column]:
    """Return as much as fits `width`.

    That is all; or all but the reasons; or fewer scores too; or, beside that, folded headers and rounded numbers; or
    all parameters of a trial in one column, which may take several lines.
    """
    found = full(ranked, metric)
    if total(found) <= width:
        return found
    names = swept_names(ranked)
    status = Column("status", [str(trial.status) for trial in ranked], right=False)
    trials, *plain = found[: len(names) + 1]
    whole = scores(ranked, metric)
    losable = [name for name in reversed(whole) if name != METRICS[metric].label]
    short = {name: replace(column, header=folded_header(name)) for name, column in whole.items()}
    folded, shortest = ([folded_column(ranked, name, names, letters) for name in names] for letters in LETTERS)
    fewest = len(losable)
    for swept, results, most in ((plain, whole, fewest - 1), (folded, short, fewest - 1), (shortest, short, fewest)):
        for fewer in range(most + 1):
            kept = [column for name, column in results.items() if name not in losable[:fewer]]
            if total(found := [trials, *swept, *kept, status]) <= width:
                return found
    pairs = ["  ".join(f"{printable(key)}={value(v, 3)}" for key, v in trial.config.items()) for trial in ranked]
    kept = [column for name, column in short.items() if name not in losable]
    return [trials, *kept, status, Column("parameters", pairs, right=False)]


def total(columns: Sequence[Column]) -> int:
    """Return how wide a table of these columns is."""
    return sum(column.width for column in columns) + GAP * (len(columns) - 1)


def swept_names(ranked: Sequence[Trial]) -> list[str]:
    """Return the swept parameters, in the order of the space. The seed of a repeat is in its id."""
    return list(dict.fromkeys(name for trial in ranked if trial.of is None for name in trial.config))


def values(ranked: Sequence[Trial], name: str, digits: int = 4) -> list[str]:
    """Return each trial's value of a parameter, or "" if it has none."""
    return [value(trial.config[name], digits) if name in trial.config else "" for trial in ranked]


def folded_column(ranked: Sequence[Trial], name: str, names: Sequence[str], least: int) -> Column:
    """Return a parameter's column, as wide as its values: each word of its name, cut to that, has its own line."""
    cells = values(ranked, name, digits=3)
    others = [other for other in names if other != name]
    longest = max(map(len, name.split("_")))
    for letters in range(min(longest, max([least, *map(len, cells)])), longest):
        if folded_name(name, letters) not in [folded_name(other, letters) for other in others]:
            return Column(folded_name(name, letters), cells)
    return Column(folded_name(name, longest), cells)


def folded_name(name: str, letters: int) -> str:
    return "\n".join(printable(word[:letters]) for word in name.split("_"))


def folded_header(name: str) -> str:
    return "iters" if name == "iterations" else name.replace(" ", "\n")


def scores(ranked: Sequence[Trial], metric: str) -> dict[str, Column]:
    """Return the columns of how far each trial got and of its best evaluation's scores, by their headers."""
    best = [trial.best_row(metric) for trial in ranked]
    cells = {"iterations": [str(trial.iterations) for trial in ranked]}
    for each in METRICS.values():
        cells[each.label] = [formatted(row.get(each.name), ".1%" if each.is_share else each.format) for row in best]
        if each.name == "exact_match":
            cells["95% interval"] = [interval(row) for row in best]
    return {header: Column(header, column) for header, column in cells.items()}


def cropped(ranked: Sequence[Trial], metric: str, console: Console, height: int) -> list[ConsoleRenderable]:
    """Return the table in at most `height` lines: the best, those that run, and how many more there are."""
    from rich.text import Text

    def lines(parts: Sequence[ConsoleRenderable]) -> int:
        return sum(len(console.render_lines(part, pad=False)) for part in parts)

    columns = fitting(ranked, metric, console.width)
    header = 1 + max(column.header.count("\n") for column in columns)
    room = len(ranked) if len(ranked) <= height - header else height - header - 1
    while room > 0:
        rows = chosen(ranked, room)
        more = [Text(text)] if (text := describe_others(ranked, rows)) else []
        parts: list[ConsoleRenderable] = [drawn(columns, rows), *more]
        if (taken := lines(parts)) <= height:
            return parts
        room = min(room - 1, room * height // taken)  # a trial may take several lines
    return []


def chosen(ranked: Sequence[Trial], count: int) -> list[int]:
    """Return the places of `count` trials, in order: the best, and in up to half of them those that run."""
    running = [number for number, trial in enumerate(ranked) if trial.status == Status.RUNNING]
    first = [*running[: count // 2], *range(len(ranked))]
    return sorted(list(dict.fromkeys(first))[:count])


def describe_others(ranked: Sequence[Trial], rows: Sequence[int]) -> str:
    """Return how many trials are not among `rows`, by their status; "" if there are none."""
    left = [trial.status for number, trial in enumerate(ranked) if number not in rows]
    counts = [f"{left.count(status)} {status}" for status in dict.fromkeys(left)]
    return f"... and {len(left)} more: {', '.join(counts)}" if left else ""


def describe_failures(trials: Iterable[Trial], width: int) -> Iterator[str]:
    """Yield why trials failed, each reason once, in lines of at most `width`."""
    reasons: dict[str, list[str]] = {}
    for trial in trials:
        if trial.status == Status.FAILED:
            reasons.setdefault(printable(str(trial.reason)), []).append(trial.id)
    for reason, names in list(reasons.items())[:SHOWN_REASONS]:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        who = f"failed: {', '.join(names[:3])}{more}: "
        yield who + cut(reason, max(20, width - len(who)))
    if len(reasons) > SHOWN_REASONS:
        yield f"... and {len(reasons) - SHOWN_REASONS} more reasons"


def finalists_table(results: Sequence[Mapping[str, Any]], metric: str) -> Table:
    """Return the table of the finalists, in the given order: their mean and the score of each run by its seed."""
    from rich.table import Table

    shown, how = Table(box=None, pad_edge=False), METRICS[metric].format
    for name in ("trial", "mean", "each seed"):
        shown.add_column(name, overflow="fold")
    for each in results:
        seeds = [f"{run['seed']}: {formatted(run.get(metric), how) or run['status']}" for run in each["seeds"]]
        shown.add_row(each["id"], formatted(each["mean"], how), "  ".join(seeds))
    return shown


def value(found: Any, digits: int = 4) -> str:
    """Return a value as YAML has it; a fraction has so many digits."""
    if found is None or isinstance(found, bool):
        return "null" if found is None else str(found).lower()
    return f"{found:.{digits}g}" if isinstance(found, float) else printable(str(found))


def formatted(number: Any, how: str) -> str:
    return "" if number is None else format(number, how)


def interval(row: Mapping[str, Any]) -> str:
    low, high = row.get("exact_match_low"), row.get("exact_match_high")
    return "" if low is None or high is None else f"{low:.1%} to {high:.1%}"
