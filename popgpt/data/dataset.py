"""The dataset on disk: three Arrow files whose buffers are the text and its line index, opened memory-mapped.

DATA_DIR/NAME/{train,val,test}.arrow are Arrow IPC files with one column `line` of UTF-8 text, newline included. Each
record batch is a *shard*: the lines that are shuffled together. What the dataset is, `Meta`, is JSON in each schema.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from popgpt.config import Config, Role, flat, parameters_of
from popgpt.data.arrow import check_replaceable, open_arrow, read_meta
from popgpt.data.building import Plan, build_dataset
from popgpt.data.meta import SPLITS, Meta
from popgpt.lines.text import NEWLINE, Text, decode, from_utf8, join_lines, prompt_ends
from popgpt.tasks.base import Source, Task
from popgpt.text.errors import UserError

Made = TypeVar("Made")
_MOST_KEPT = 8


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
        self._kept: dict[Hashable, Any] = {}

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
                found += decode(codes[first:last])[:-1].split("\n")
        return found

    def contains(self, prompts: Sequence[str], task: Task) -> NDArray[np.bool_]:
        """[len(prompts)] whether a line of this split asks the same: its prompt has the same canonical form."""
        forms = [task.canonical(prompt) for prompt in prompts]
        texts = join_lines(forms)
        wanted = task.hash_prompts(texts, texts.offsets[1:] - 1)
        known: set[str] = set()
        for number in range(self.shards):
            text = self.shard(number)
            ends = prompt_ends(text, self.meta.separator)
            matches = np.flatnonzero(np.isin(task.hash_prompts(text, ends), wanted))
            for start, end in zip(text.offsets[matches], ends[matches], strict=True):
                known.add(task.canonical(decode(text.codes[start:end])))
        return np.array([form in known for form in forms], np.bool_)

    def keep(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What `make` makes of this split, made once for each key; of many keys the latest few are kept."""
        if key not in self._kept:
            self._kept[key] = make()
            if len(self._kept) > _MOST_KEPT:
                del self._kept[next(iter(self._kept))]
        made: Made = self._kept[key]
        return made


class Dataset:
    """An opened dataset: `meta` says what it is, `split(name)` gives its lines."""

    def __init__(self, path: Path, meta: Meta) -> None:
        self.path = path
        self.meta = meta
        self._splits: dict[str, Split] = {}

    def split(self, name: str) -> Split:
        """The lines of "train", "val" or "test", opened once."""
        if name not in SPLITS:
            raise UserError(f"split={name!r} should be one of {', '.join(SPLITS)}")
        if name not in self._splits:
            self._splits[name] = Split(self.path, name, self.meta)
        return self._splits[name]


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
    """The dataset that `config` names, built first where it is missing and its task makes lines. Raises UserError."""
    if found := find_dataset(config):
        return found
    build_dataset(dataset_path(config), *plan_dataset(config))
    return ensure_dataset(config)  # maybe another process was faster, with other options


def find_dataset(config: Config) -> Dataset | None:
    """The dataset that `config` names; None where it is missing and can be built.

    Raises UserError where it is missing and cannot be built, or is there but of another task or other options.
    """
    path = dataset_path(config)
    if not path.exists():
        plan_dataset(config)
        return None
    dataset = open_dataset(path)
    check_options(dataset, config.task.name, dataset_options(config))
    return dataset


def check_options(dataset: Dataset, task: str, options: Mapping[str, Any]) -> None:
    """Raises UserError where a dataset is another task's, or was built with other options."""
    if dataset.meta.task != task:
        raise UserError(
            f"{dataset.path} holds lines of task={dataset.meta.task}, not of task={task}: "
            f"give task={dataset.meta.task}, or another dataset or data_dir"
        )
    for name, value in options.items():
        built = dataset.meta.options.get(name)
        if built != value:
            raise UserError(
                f"{dataset.path} was built with {name}={built!r}, now it is {name}={value!r}: give another "
                "data_dir or dataset, or replace it with `python -m popgpt.prepare ... --force`"
            )


def dataset_options(config: Config) -> dict[str, Any]:
    """All of a config that decides the lines of its task's dataset, as JSON would give it back."""
    decides = flat(config.model_dump(include=set(parameters_of(Role.DATA))))
    values: dict[str, Any] = json.loads(json.dumps(decides)) if config.task.generates else {}
    return values


def plan_dataset(config: Config) -> tuple[Source, Plan]:
    """What `build_dataset` takes to build the dataset of a config. Raises UserError where its options can't be met."""
    task = config.task
    if not task.generates:
        raise UserError(
            f"{dataset_path(config)}: no such dataset; make it with "
            f"`python -m popgpt.prepare --from-text FILE --dataset {config.dataset} --data-dir {config.data_dir}`"
        )
    source = task.source(config.train_lines + config.val_lines + config.test_lines, config.data_seed)
    plan = Plan(
        name=config.dataset,
        task=task.name,
        options=dataset_options(config),
        separator=task.separator,
        symbols=task.symbols,
        split_seed=config.data_seed,
        val_lines=config.val_lines,
        test_lines=config.test_lines,
    )
    return source, plan
