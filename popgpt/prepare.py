"""Build a dataset: the calculator's from a config, or one from your own lines."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from popgpt.cli import config_parser, run
from popgpt.config import Config, UserError, load_config
from popgpt.data.dataset import Dataset, build_calculator, check_options, dataset_path, open_dataset
from popgpt.data.meta import SPLITS, Meta


def main(arguments: Sequence[str] | None = None) -> None:
    given = _parser().parse_args(arguments)
    begun = time.perf_counter()
    dataset, built = _calculator(load_config(given.config, given.overrides), given.force)
    print("\n".join(describe(dataset)))
    seconds = time.perf_counter() - begun
    print(f"{'prepared' if built else 'already there'}: {dataset.path} ({seconds:.1f} s)")


def _parser() -> argparse.ArgumentParser:
    parser = config_parser("prepare", "Build the dataset of a config, or of your own lines.")
    parser.add_argument("--force", action="store_true", help="replace a dataset that was built with other options")
    return parser


def _calculator(config: Config, force: bool) -> tuple[Dataset, bool]:
    """The calculator's dataset of a config, and whether it was built now."""
    path = dataset_path(config)
    if path.exists():
        try:
            dataset = open_dataset(path)
            check_options(dataset, config)
            if dataset.meta.generator != "calculator":
                raise UserError(f"{path} holds other lines than the calculator's: give another dataset, or --force")
            return dataset, False
        except UserError:
            if not force:
                raise
    build_calculator(config, overwrite=force)
    return open_dataset(path), True


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
    return f"{len(characters)} characters and the newline: {ascii(shown) if not shown.isprintable() else shown}"


if __name__ == "__main__":
    run(main)
