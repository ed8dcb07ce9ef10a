"""The trials of a sweep as tables for a terminal: what fits its width, and its height where that is asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from popgpt.metrics.metric import score
from popgpt.sweep.ranking import Trial, best_row, iterations
from popgpt.text.printable import cut, printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleRenderable
    from rich.table import Table

GAP = 2
LETTERS = (5, 3)  # of a word in a header that is folded, at least: at first, and where there is less room
SHOWN_REASONS = 10
SHORT = {
    "iterations": "iters",
    "exact match": "exact\nmatch",
    "95% interval": "95%\ninterval",
    "token accuracy": "token\naccuracy",
    "val loss": "val\nloss",
}
LOSABLE = ("val loss", "token accuracy", "95% interval", "exact match", "iterations")  # in this order
OF_METRIC = {"exact_match": "exact match", "token_accuracy": "token accuracy", "val_loss": "val loss"}


class Standing(NamedTuple):
    """A trial, its best evaluation (empty: it has none) and how far it got."""

    trial: Trial
    best: Mapping[str, Any]
    iterations: int


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


def standing(trial: Trial, metric: str) -> Standing:
    """Where a trial stands."""
    return Standing(trial, best_row(trial, metric), iterations(trial))


def in_order(standings: Iterable[Standing], metric: str) -> list[Standing]:
    """The best first; those without an evaluation come last. Equals keep their order."""
    return sorted(standings, key=lambda each: score(each.best, metric), reverse=True)


def table(ranked: Sequence[Standing], metric: str, width: int | None = None) -> Table:
    """Trials in the given order: what was swept, how far each got, its scores and its status.

    width: the widest that it may be. What matters least is then left out, before that the reasons of the statuses.
    """
    columns = full(ranked) if width is None else fitting(ranked, metric, width)
    return drawn(columns, range(len(ranked)))


def drawn(columns: Sequence[Column], rows: Iterable[int]) -> Table:
    """These rows of the columns; the last column may take several lines."""
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


def full(ranked: Sequence[Standing]) -> list[Column]:
    """Every column, and each status with its reason."""
    reasons = [": ".join(filter(None, (str(t["status"]), t.get("reason")))) for t, *_ in ranked]
    swept = [Column(printable(name), values(ranked, name)) for name in swept_names(ranked)]
    status = Column("status", [printable(reason) for reason in reasons], right=False)
    return [identifiers(ranked), *swept, *scores(ranked).values(), status]


def fitting(ranked: Sequence[Standing], metric: str, width: int) -> list[Column]:
    """As much as fits `width`: all; all but the reasons; then with fewer scores; then that with headers folded and
    numbers rounded; and at the end with all parameters of a trial in one column, which may take several lines.
    """
    found = full(ranked)
    if total(found) <= width:
        return found
    names = swept_names(ranked)
    status = Column("status", [str(each.trial["status"]) for each in ranked], right=False)
    losable = [name for name in LOSABLE if name != OF_METRIC[metric]]
    trials, *plain = found[: len(names) + 1]
    whole = scores(ranked)
    short = {name: replace(column, header=SHORT[name]) for name, column in whole.items()}
    folded, shortest = ([folded_column(ranked, name, names, letters) for name in names] for letters in LETTERS)
    fewest = len(losable)
    for swept, results, most in ((plain, whole, fewest - 1), (folded, short, fewest - 1), (shortest, short, fewest)):
        for fewer in range(most + 1):
            kept = [column for name, column in results.items() if name not in losable[:fewer]]
            if total(found := [trials, *swept, *kept, status]) <= width:
                return found
    pairs = ["  ".join(f"{printable(key)}={value(v, 3)}" for key, v in each.trial["config"].items()) for each in ranked]
    kept = [column for name, column in short.items() if name not in losable]
    return [trials, *kept, status, Column("parameters", pairs, right=False)]


def total(columns: Sequence[Column]) -> int:
    """How wide a table of these columns is."""
    return sum(column.width for column in columns) + GAP * (len(columns) - 1)


def identifiers(ranked: Sequence[Standing]) -> Column:
    return Column("trial", [printable(str(each.trial["id"])) for each in ranked], right=False)


def swept_names(ranked: Sequence[Standing]) -> list[str]:
    """The swept parameters, in the order of the space. What repeats have besides, their seed, is in their names."""
    own = [each.trial["config"] for each in ranked if "of" not in each.trial]
    return list(dict.fromkeys(name for config in own for name in config))


def values(ranked: Sequence[Standing], name: str, digits: int = 4) -> list[str]:
    """Each trial's value of a parameter; nothing where it has none."""
    configs = [each.trial["config"] for each in ranked]
    return [value(config[name], digits) if name in config else "" for config in configs]


def folded_column(ranked: Sequence[Standing], name: str, names: Sequence[str], least: int) -> Column:
    """A parameter's column, as wide as its values: each word of its name is cut to that and has a line of its own."""
    cells = values(ranked, name, digits=3)
    others = [other for other in names if other != name]
    longest = max(map(len, name.split("_")))
    for letters in range(min(longest, max([least, *map(len, cells)])), longest):
        if folded_name(name, letters) not in [folded_name(other, letters) for other in others]:
            return Column(folded_name(name, letters), cells)
    return Column(folded_name(name, longest), cells)


def folded_name(name: str, letters: int) -> str:
    return "\n".join(printable(word[:letters]) for word in name.split("_"))


def scores(ranked: Sequence[Standing]) -> dict[str, Column]:
    """The columns of how far each got and what it came to, by their headers."""
    best = [each.best for each in ranked]
    cells = {
        "iterations": [str(each.iterations) for each in ranked],
        "exact match": [percent(row.get("exact_match")) for row in best],
        "95% interval": [interval(row) for row in best],
        "token accuracy": [percent(row.get("token_accuracy")) for row in best],
        "val loss": [value(row["val_loss"]) if row.get("val_loss") is not None else "" for row in best],
    }
    return {name: Column(name, each) for name, each in cells.items()}


def cropped(ranked: Sequence[Standing], metric: str, console: Console, height: int) -> list[ConsoleRenderable]:
    """The table in at most `height` lines, of the best and of those that run, and how many more there are."""
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


def chosen(ranked: Sequence[Standing], count: int) -> list[int]:
    """The numbers of `count` trials, in order: the best, but in up to half of the places those that run."""
    running = [number for number, each in enumerate(ranked) if each.trial["status"] == "running"]
    first = [*running[: count // 2], *range(len(ranked))]
    return sorted(list(dict.fromkeys(first))[:count])


def describe_others(ranked: Sequence[Standing], rows: Sequence[int]) -> str:
    """How many trials are not among `rows`, by their status; nothing where there are none."""
    left = [str(ranked[number].trial["status"]) for number in sorted({*range(len(ranked))} - {*rows})]
    counts = [f"{left.count(status)} {status}" for status in dict.fromkeys(left)]
    return f"... and {len(left)} more: {', '.join(counts)}" if left else ""


def describe_failures(trials: Iterable[Trial], width: int) -> Iterator[str]:
    """Why trials failed, each reason once, in lines of at most `width`."""
    reasons: dict[str, list[str]] = {}
    for trial in trials:
        if trial["status"] == "failed":
            reasons.setdefault(printable(str(trial.get("reason"))), []).append(str(trial["id"]))
    for reason, names in list(reasons.items())[:SHOWN_REASONS]:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        who = f"failed: {', '.join(names[:3])}{more}: "
        yield who + cut(reason, max(20, width - len(who)))
    if len(reasons) > SHOWN_REASONS:
        yield f"... and {len(reasons) - SHOWN_REASONS} more reasons"


def finalists_table(results: Sequence[Mapping[str, Any]], metric: str) -> Table:
    """The finalists, in the given order: their mean and the score of each run by its seed."""
    from rich.table import Table

    shown = Table(box=None, pad_edge=False)
    for name in ("trial", "mean", "each seed"):
        shown.add_column(name, overflow="fold")

    def number(found: Any) -> str:
        return "" if found is None else value(found) if metric == "val_loss" else f"{found:.2%}"

    for each in results:
        seeds = [f"{run['seed']}: {number(run.get(metric)) or run['status']}" for run in each["seeds"]]
        shown.add_row(str(each["id"]), number(each["mean"]), "  ".join(seeds))
    return shown


def value(found: Any, digits: int = 4) -> str:
    """A value as YAML has it; of a fraction some digits."""
    if found is None or isinstance(found, bool):
        return "null" if found is None else str(found).lower()
    return f"{found:.{digits}g}" if isinstance(found, float) else printable(str(found))


def percent(found: Any) -> str:
    return "" if found is None else f"{found:.1%}"


def interval(row: Mapping[str, Any]) -> str:
    low, high = row.get("exact_match_low"), row.get("exact_match_high")
    return "" if low is None or high is None else f"{low:.1%} to {high:.1%}"
