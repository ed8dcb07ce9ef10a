"""The dataset on disk: three Arrow files whose buffers are the text and its line index, opened memory-mapped.

DATA_DIR/NAME/{train,val,test}.arrow are Arrow IPC files with one column `line` of UTF-8 text, newline included. Each
record batch is a *shard*: the lines that are shuffled together. What the dataset is, `Meta`, is JSON in each schema.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from popgpt.config import Config, Role, parameters_of
from popgpt.data.arrow import check_replaceable, open_arrow, read_meta
from popgpt.data.building import Plan, Source, build_dataset
from popgpt.data.meta import SPLITS, Meta
from popgpt.lines.shuffle import U64
from popgpt.lines.text import I64, NEWLINE, Text, from_utf8, hash_spans, prompt_ends
from popgpt.tasks.calculator import arithmetic as calculator
from popgpt.tasks.calculator.canonical import canonical, hash_operands, plain_numbers
from popgpt.text.errors import UserError


class Split:
    """A split's lines, memory-mapped: nothing is read before it is asked for."""

    def __init__(self, path: Path, name: str, meta: Meta) -> None:
        self.name = name
        self.meta = meta
        self.path = path / f"{name}.arrow"
        self._file = open_arrow(self.path)
        if read_meta(self._file, self.path).fingerprint != meta.fingerprint:
            raise UserError(f"{self.path}: not of the same dataset as train.arrow: damaged, prepare it again")
        self._ascii = meta.characters.isascii()
        self._starts = np.cumsum([0] + [sum(shard.values()) for shard in self.shard_lengths])
        self._decoded = lru_cache(maxsize=2)(self._read_shard)

    def __len__(self) -> int:
        return self.meta.lines[self.name]

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return len(self.shard_lengths)

    @property
    def shard_lengths(self) -> list[dict[int, int]]:
        """For each shard, length -> lines."""
        return self.meta.shard_lengths[self.name]

    def shard(self, number: int) -> Text:
        """The lines of a shard as code points. ASCII is viewed where it lies, other text is decoded."""
        return self._decoded(number)

    def _read_shard(self, number: int) -> Text:
        import pyarrow as pa

        try:
            text = self._decode_shard(number)
            lengths, counts = np.unique(text.lengths, return_counts=True)
            whole = dict(zip(lengths.tolist(), counts.tolist(), strict=True)) == self.shard_lengths[number]
            newlines = text.codes == ord(NEWLINE)
            whole = whole and newlines[text.offsets[1:] - 1].all() and newlines.sum() == len(text.offsets) - 1
        except (OSError, ValueError, LookupError, pa.ArrowException):
            whole = False
        if not whole:
            raise UserError(f"{self.path}: damaged, prepare it again")
        return text

    def _decode_shard(self, number: int) -> Text:
        _, offsets, data = self._file.get_batch(number).column(0).buffers()
        lines = int(self._starts[number + 1] - self._starts[number])
        codes = np.frombuffer(data, np.uint8) if data else np.zeros(0, np.uint8)
        view = np.frombuffer(offsets, np.int32)[: lines + 1]
        if not 0 <= view[-1] <= len(codes):
            raise ValueError(f"{view[-1]} bytes of {len(codes)}")
        return from_utf8(codes[: view[-1]], view, ascii_only=self._ascii)

    def lines(self, start: int = 0, stop: int | None = None) -> list[str]:
        """The lines from number `start` to before `stop`, without their newlines."""
        start, stop, _ = slice(start, stop).indices(len(self))
        found: list[str] = []
        for number in range(self.shards):
            low, high = max(start, self._starts[number]), min(stop, self._starts[number + 1])
            if low < high:
                codes, offsets = self.shard(number)
                first, last = offsets[low - self._starts[number]], offsets[high - self._starts[number]]
                text = codes[first:last].astype("<u4").tobytes().decode("utf-32-le")
                found += text[:-1].split("\n")
        return found

    def contains(self, prompts: Sequence[str]) -> NDArray[np.bool_]:
        """[len(prompts)] whether a line of this split has exactly that prompt; of the calculator, it or a twin of it.

        Twins have one canonical form, by which splits are made: 1+2 and 2+1.
        """
        form = canonical if self._has_twins else str
        texts = _join([plain_numbers(prompt) for prompt in prompts] if self._has_twins else prompts)
        wanted = self._hash_prompts(texts, texts.offsets[1:] - 1)
        known: set[str] = set()
        for number in range(self.shards):
            text = self.shard(number)
            ends = prompt_ends(text, self.meta.separator)
            matches = np.flatnonzero(np.isin(self._hash_prompts(text, ends), wanted))
            for start, end in zip(text.offsets[matches], ends[matches], strict=True):
                known.add(form(text.codes[start:end].astype("<u4").tobytes().decode("utf-32-le")))
        return np.array([form(prompt) in known for prompt in prompts], np.bool_)

    @property
    def _has_twins(self) -> bool:
        return self.meta.generator == "calculator"

    def _hash_prompts(self, text: Text, ends: I64) -> U64:
        """[n] hashes that prompts of one form share; others may, too."""
        return hash_operands(text, ends) if self._has_twins else hash_spans(text.codes, text.offsets[:-1], ends)


@dataclass(frozen=True)
class Dataset:
    """An opened dataset: `meta` says what it is, `split(name)` gives its lines."""

    path: Path
    meta: Meta

    def split(self, name: str) -> Split:
        """The lines of "train", "val" or "test"."""
        if name not in SPLITS:
            raise UserError(f"split={name!r} should be one of {', '.join(SPLITS)}")
        return Split(self.path, name, self.meta)


def dataset_path(config: Config) -> Path:
    """Where the dataset of a config is, whether it's there or not. Raises UserError where its name is no folder's."""
    if config.dataset.startswith("."):
        raise UserError(f"dataset={config.dataset!r} should be a name that does not begin with a dot")
    return Path(config.data_dir) / config.dataset


def open_dataset(path: Path) -> Dataset:
    """The dataset in a folder. Time and memory don't depend on its size. Raises UserError where there is none."""
    if not path.exists():
        raise UserError(f"{path}: no such dataset; make it with `python -m popgpt.prepare CONFIG`")
    file = path / "train.arrow"
    try:
        reader = open_arrow(file)
    except UserError:
        check_replaceable(path)
        raise
    return Dataset(path, read_meta(reader, file))


def ensure_dataset(config: Config) -> Dataset:
    """The dataset that `config` names, built first where it is missing and the calculator's. Raises UserError."""
    if found := find_dataset(config):
        return found
    build_dataset(dataset_path(config), *calculator_plan(config))
    return ensure_dataset(config)  # maybe another process was faster, with other options


def find_dataset(config: Config) -> Dataset | None:
    """The dataset that `config` names; None where it is missing and can be built.

    Raises UserError where it is missing and cannot be built, or is there but built with other options.
    """
    path = dataset_path(config)
    if not path.exists():
        if not config.dataset.startswith("calculator"):
            raise UserError(
                f"{path}: no such dataset; make it with "
                f"`python -m popgpt.prepare --from-text FILE --dataset {config.dataset} --data-dir {config.data_dir}`"
            )
        calculator_plan(config)
        return None
    dataset = open_dataset(path)
    if dataset.meta.generator == "calculator":
        check_options(dataset, calculator_options(config))
    return dataset


def check_options(dataset: Dataset, options: Mapping[str, Any]) -> None:
    """Raises UserError where a dataset was built with other options, or by another generator, than these."""
    for name, value in options.items():
        built = {**dataset.meta.options, "generator": dataset.meta.generator}.get(name)
        if built != value:
            raise UserError(
                f"{dataset.path} was built with {name}={built!r}, now it is {name}={value!r}: give another "
                "data_dir or dataset, or replace it with `python -m popgpt.prepare ... --force`"
            )


def calculator_options(config: Config) -> dict[str, Any]:
    """All of a config that decides what the calculator's dataset holds, as JSON would give it back."""
    decides = set(parameters_of(Role.DATA))
    values: dict[str, Any] = json.loads(json.dumps(config.model_dump(include=decides)))
    return values


def calculator_plan(config: Config) -> tuple[Source, Plan]:
    """What `build_dataset` takes to build the calculator's dataset. Raises UserError where the options can't be met."""
    lines = config.train_lines + config.val_lines + config.test_lines
    source = calculator.Calculator(config, lines, config.data_seed)
    plan = Plan(
        name=config.dataset,
        generator="calculator",
        options=calculator_options(config),
        separator=calculator.SEPARATOR,
        alphabet=source.alphabet,
        symbols=config.operations,
        split_seed=config.data_seed,
        val_lines=config.val_lines,
        test_lines=config.test_lines,
    )
    return source, plan


def _join(prompts: Sequence[str]) -> Text:
    codes = np.frombuffer("".join(prompt + NEWLINE for prompt in prompts).encode("utf-32-le", "surrogatepass"), "<u4")
    return Text(codes, np.concatenate(([0], np.cumsum([len(prompt) + 1 for prompt in prompts], dtype=np.int64))))
