"""Build a dataset: that of a config's task, or one from your own lines."""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from popgpt.config import load_config, make_config
from popgpt.data.building import Plan, build_dataset
from popgpt.data.dataset import Dataset, check_options, dataset_path, open_dataset, plan_dataset
from popgpt.data.meta import SPLITS, Meta
from popgpt.data.own_lines import Contents, TextLines, find_repeats, numbered, read_file, usable_lines
from popgpt.tasks.base import Source
from popgpt.terminal.arguments import Parser, parameters_help
from popgpt.terminal.program import run, tell
from popgpt.text.errors import UserError, named

_HELD_OUT = 2000


def main(arguments: Sequence[str] | None = None) -> None:
    """Build the dataset unless it is there, and print what it holds. Raises UserError."""
    begun = time.perf_counter()
    given = _parser().parse_intermixed_args(arguments)
    path, source, plan = _of_config(given) if given.from_text is None else _own_lines(given)
    dataset, built = _prepare(path, source, plan, given.force)
    print("\n".join(describe(dataset)))
    tell(f"{'prepared' if built else 'already there'}: {path} ({time.perf_counter() - begun:.1f} s)")
    if given.from_text is not None:
        words = [
            "task=text",
            f"dataset={given.dataset}",
            *([f"data_dir={given.data_dir}"] if given.data_dir != "data" else []),
        ]
        tell(f"train on it: python -m popgpt.train CONFIG {shlex.join(words)}")
        tell("  python -m popgpt.init FILE writes a CONFIG that fits to the lines of FILE, and a search space")


def _parser() -> Parser:
    parser = Parser(
        prog="python -m popgpt.prepare",
        description="Build the dataset of a config, or with --from-text that of your own lines.",
        epilog=parameters_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", nargs="?", help="YAML file of parameters")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="parameters that replace the file's")
    parser.add_argument("--force", action="store_true", help="replace a dataset that was built with other options")
    own = parser.add_argument_group("your own lines")
    own.add_argument("--from-text", metavar="FILE", help="text, .csv or .parquet (columns prompt, answer), - for stdin")
    own.add_argument("--dataset", metavar="NAME", help="name of the dataset")
    own.add_argument("--data-dir", metavar="DIR", default="data", help="folder that holds the datasets (data)")
    own.add_argument("--separator", default="=", help="the character after the prompt (=); the first in a line counts")
    own.add_argument("--drop-bad", action="store_true", help="leave unusable lines out instead of refusing the file")
    own.add_argument("--val-lines", type=int, help="lines for validation (a tenth, at most 2000)")
    own.add_argument("--test-lines", type=int, help="lines for the final test (a tenth, at most 2000)")
    own.add_argument("--seed", type=int, default=1, help="of the split and of the lines' order (1)")
    return parser


def _of_config(given: argparse.Namespace) -> tuple[Path, Source, Plan]:
    if given.config is None:
        raise UserError("give a config, for example configs/calculator.yaml, or your own lines with --from-text FILE")
    if given.dataset is not None:
        raise UserError(f"--dataset goes with --from-text; with a config write dataset={given.dataset}")
    config = load_config(given.config, given.overrides)
    return dataset_path(config), *plan_dataset(config)


def _own_lines(given: argparse.Namespace) -> tuple[Path, Source, Plan]:
    if given.config is not None:
        words = [word.partition("=") for word in (given.config, *given.overrides) if "=" in word]
        meant = [f"--{key.replace('_', '-')} {shlex.quote(value)}" for key, _, value in words]
        hint = f"write {' '.join(meant)}" if meant else "name the dataset with --dataset NAME"
        raise UserError(f"{named(given.config)}: --from-text takes no config and no key=value; {hint}")
    if given.dataset is None:
        raise UserError("--from-text needs a name for the dataset: --dataset NAME")
    if len(given.separator) != 1 or given.separator in "\r\n" or "\ud800" <= given.separator <= "\udfff":
        raise UserError(f"--separator {given.separator!r} should be one character, and not a newline")
    values = {"task": "text", "dataset": given.dataset, "data_dir": given.data_dir, "data_seed": given.seed}
    path = dataset_path(make_config(values, "arguments"))
    contents = read_file(given.from_text, given.separator)
    source = TextLines(usable_lines(given.from_text, contents, given.drop_bad), given.separator, given.seed)
    for note in _notes(contents, given.separator):
        tell(note)
    held_out = min(_HELD_OUT, max(1, len(source) // 10))
    lines = {"val_lines": given.val_lines, "test_lines": given.test_lines}
    lines = {name: held_out if value is None else value for name, value in lines.items()}
    for name, value in lines.items():
        if value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value} should be at least 1")
    options = {"data_seed": given.seed, **lines, "separator": given.separator, "text_sha256": source.digest}
    return path, source, Plan(given.dataset, "text", options, given.separator, "", given.seed, **lines)


def _notes(contents: Contents, separator: str) -> Iterator[str]:
    """What a user should know of the lines."""
    if contents.blank:
        yield f"left out    {contents.blank:>12,} blank lines"
    for trouble in contents.troubles:
        where = numbered(trouble.numbers, trouble.unit)
        yield f"left out    {len(trouble.numbers):>12,} lines {trouble.reason}: {where}"
    repeats = find_repeats(contents, separator)
    if repeats.lines:
        yield f"repeated    {repeats.lines:>12,} lines say again what an earlier one says"
    if len(repeats.conflicts):
        first = ", ".join(f"{a} and {b}" for a, b in repeats.conflicts[:5])
        yield f"conflicts   {len(repeats.conflicts):>12,} prompts with several answers: {contents.unit}s {first}"


def _prepare(path: Path, source: Source, plan: Plan, force: bool) -> tuple[Dataset, bool]:
    """The dataset at `path`, and whether it was built now: it's kept where its options are those of the plan."""
    if path.exists():
        try:
            dataset = open_dataset(path)
            check_options(dataset, plan.task, plan.options)
            return dataset, False
        except UserError:
            if not force:
                raise
    build_dataset(path, source, plan, overwrite=force)
    dataset = open_dataset(path)
    check_options(dataset, plan.task, plan.options)  # another process may have been first
    return dataset, True


def describe(dataset: Dataset) -> list[str]:
    """What a dataset holds, in lines of text."""
    meta = dataset.meta
    return [
        *(f"{split:<12}{meta.lines[split]:>12,} lines{_kinds(meta, split)}" for split in SPLITS),
        f"{'lengths':<12}{_lengths(meta)}",
        f"{'alphabet':<12}{_alphabet(meta)}",
        f"{'overlaps':<12}{meta.overlaps:>12,} prompts in two splits",
        f"{'fingerprint':<12}{meta.fingerprint}",
    ]


def _kinds(meta: Meta, split: str) -> str:
    shares = [f"{kind or 'other'} {count:,}" for kind, count in meta.by_kind[split].items()] if meta.symbols else []
    return f"  ({', '.join(shares)})" if shares else ""


def _lengths(meta: Meta) -> str:
    lengths = meta.lengths("train")
    mean = sum(length * count for length, count in lengths.items()) / sum(lengths.values())
    return f"{min(lengths)} to {max(lengths)} characters, {mean:.1f} on average; answers up to {meta.longest_answer}"


def _alphabet(meta: Meta) -> str:
    characters = meta.characters.replace("\n", "")
    shown = characters if len(characters) <= 60 else characters[:60] + "..."
    return f"{len(characters)} characters and the newline: {shown if shown.isprintable() else ascii(shown)}"


if __name__ == "__main__":
    run(main)
