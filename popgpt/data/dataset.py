"""The dataset on disk: three Arrow files whose buffers are the text and its line index, opened memory-mapped.

DATA_DIR/NAME/{train,val,test}.arrow are Arrow IPC files with one column `line` of UTF-8 text, newline included. Each
record batch is a *shard*: the lines that are shuffled together. What the dataset is, `Meta`, is JSON in each schema.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from popgpt.config import Config, UserError
from popgpt.data import calculator
from popgpt.data.lines import Text, from_utf8, hash_spans, kinds, prompt_ends
from popgpt.data.shuffle import U64, derive_key, mix
from popgpt.data.vocabulary import Vocabulary

SPLITS = ("train", "val", "test")
FORMAT = 1
SHARD_LINES = 2**18
SHARD_BYTES = 2**26
_META_KEY = b"popgpt"
_CHUNK = 2**18
_COUNTS = ("train_lines", "val_lines", "test_lines")

Progress = Callable[[int, int], None]
"""Called with lines done and lines in all."""


class Source(Protocol):
    """Lines by number: what a dataset is built from."""

    def __len__(self) -> int:
        """How many lines there are."""

    def text(self, lines: NDArray[Any]) -> Text:
        """The lines with these numbers, as UTF-8 bytes with offsets in bytes."""

    def keys(self, lines: NDArray[Any]) -> U64:
        """[n] hashes of these lines' canonical prompts; lines with one key go to one split."""


@dataclass(frozen=True)
class Meta:
    """What a dataset is. Counts are of lines, lengths are in characters without the newline.

    generator: "calculator" or "text". options: what it was built with, as in the config. symbols: the characters that
    tell kinds of prompts apart. by_kind: split -> kind -> lines. shard_lengths: split -> per shard, length -> lines.
    characters_in: split -> character -> occurrences. overlaps: prompts, in canonical form, that are in two splits.
    """

    name: str
    generator: str
    options: dict[str, Any]
    separator: str
    characters: str
    symbols: str
    split_seed: int
    lines: dict[str, int]
    by_kind: dict[str, dict[str, int]]
    shard_lengths: dict[str, list[dict[int, int]]]
    characters_in: dict[str, dict[str, int]]
    longest_line: int
    longest_answer: int
    overlaps: int
    fingerprint: str
    format: int = FORMAT

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The characters of all splits."""
        return Vocabulary(self.characters)

    def lengths(self, split: str) -> dict[int, int]:
        """Length -> lines of a split."""
        total: dict[int, int] = {}
        for shard in self.shard_lengths[split]:
            for length, count in shard.items():
                total[length] = total.get(length, 0) + count
        return dict(sorted(total.items()))


class Split:
    """A split's lines, memory-mapped: nothing is read before it is asked for."""

    def __init__(self, path: Path, name: str, meta: Meta) -> None:
        self.name = name
        self.meta = meta
        self._file = _open_arrow(path / f"{name}.arrow")
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
        """The lines of a shard as code points. ASCII is viewed where it lies; other text is decoded, two shards kept."""
        return self._decoded(number)

    def _read_shard(self, number: int) -> Text:
        _, offsets, data = self._file.get_batch(number).column(0).buffers()
        lines = int(self._starts[number + 1] - self._starts[number])
        codes = np.frombuffer(data, np.uint8) if data else np.zeros(0, np.uint8)
        view = np.frombuffer(offsets, np.int32)[: lines + 1]
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
        """[len(prompts)] whether a line of this split has exactly that prompt."""
        wanted = _hash_texts(prompts)
        known: set[str] = set()
        for number in range(self.shards):
            text = self.shard(number)
            ends = prompt_ends(text, self.meta.separator)
            matches = np.flatnonzero(np.isin(hash_spans(text.codes, text.offsets[:-1], ends), wanted))
            for start, end in zip(text.offsets[matches], ends[matches], strict=True):
                known.add(text.codes[start:end].astype("<u4").tobytes().decode("utf-32-le"))
        return np.array([prompt in known for prompt in prompts], np.bool_)


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
    """Where the dataset of a config is, whether it's there or not."""
    return Path(config.data_dir) / config.dataset


def open_dataset(path: Path) -> Dataset:
    """The dataset in a folder. Time and memory don't depend on its size. Raises UserError where there is none."""
    meta = _read_meta(path)
    if meta.format != FORMAT:
        raise UserError(f"{path}: dataset of format {meta.format}, this popgpt reads {FORMAT}: prepare it again")
    return Dataset(path, meta)


def ensure_dataset(config: Config, progress: Progress | None = None) -> Dataset:
    """The dataset that `config` names, built first where it is missing and the calculator's.

    Raises UserError where it is missing and not the calculator's, or is there but built with other options.
    """
    path = dataset_path(config)
    if not path.exists():
        if not config.dataset.startswith("calculator"):
            raise UserError(
                f"{path}: no such dataset; make it with "
                f"`python -m popgpt.prepare --from-text FILE --dataset {config.dataset} --data-dir {config.data_dir}`"
            )
        return build_calculator(config, progress=progress)
    dataset = open_dataset(path)
    check_options(dataset, config)
    return dataset


def check_options(dataset: Dataset, config: Config) -> None:
    """Raises UserError where a calculator's dataset was built with other options than the config's."""
    if dataset.meta.generator != "calculator":
        return
    for name, value in calculator_options(config).items():
        built = dataset.meta.options.get(name)
        if built != value:
            raise UserError(
                f"{dataset.path} was built with {name}={built!r}, the config says {name}={value!r}: give another "
                "data_dir or dataset, or replace it with `python -m popgpt.prepare CONFIG --force`"
            )


def calculator_options(config: Config) -> dict[str, Any]:
    """All of a config that decides what the calculator's dataset holds, as JSON would give it back."""
    names = ("data_seed", *_COUNTS, *calculator.OPTIONS)
    values: dict[str, Any] = json.loads(json.dumps({name: getattr(config, name) for name in names}))
    return values


def build_calculator(config: Config, *, replace: bool = False, progress: Progress | None = None) -> Dataset:
    """Generate, split and write the calculator's dataset of a config. Raises UserError where the options can't be met."""
    counts = {split: getattr(config, count) for split, count in zip(SPLITS, _COUNTS, strict=True)}
    source = calculator.Calculator(config, sum(counts.values()), config.data_seed)
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
    return build_dataset(dataset_path(config), source, plan, replace=replace, progress=progress)


class Plan(NamedTuple):
    """What `build_dataset` makes of a source. alphabet: characters beside those that occur."""

    name: str
    generator: str
    options: dict[str, Any]
    separator: str
    alphabet: str
    symbols: str
    split_seed: int
    val_lines: int
    test_lines: int


def build_dataset(
    path: Path, source: Source, plan: Plan, *, replace: bool = False, progress: Progress | None = None
) -> Dataset:
    """Write a dataset so that, whenever it is killed, `path` holds the old one, none, or the whole new one.

    With `replace`, whatever is at `path` gives way; without, a dataset that came to be meanwhile is left and opened.
    """
    with _alone(path):
        if path.exists() and not replace:
            return open_dataset(path)
        work = path.parent / f".{path.name}.tmp"
        _discard(work)
        work.mkdir()
        _write_splits(work, source, plan, progress or (lambda done, total: None))
        _move_into_place(work, path)
    return open_dataset(path)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock of the dataset at `path`: who builds it at the same time waits, and then finds it there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.parent / f".{path.name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise UserError(f"{path}: cannot write the dataset: {error.strerror}") from error


def _discard(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)


def _move_into_place(work: Path, path: Path) -> None:
    _sync(work)
    old = path.parent / f".{path.name}.old"
    _discard(old)
    if path.exists():
        path.rename(old)
    work.rename(path)
    _sync(path.parent)
    _discard(old)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def assign_splits(hashes: U64, val_lines: int, test_lines: int) -> NDArray[np.int8]:
    """[n] the split of each line as an index into SPLITS, by the hash of its canonical prompt alone.

    The prompts of smallest hash make val, the next test, the rest train. A prompt with more lines than its split still
    takes is passed over, so that the counts are met exactly wherever prompts of few enough lines exist.
    """
    labels = np.zeros(len(hashes), np.int8)
    held_out = val_lines + test_lines
    reach = min(len(hashes), held_out + held_out // 8 + 1024)
    threshold = np.partition(hashes, reach - 1)[reach - 1]
    candidates = np.flatnonzero(hashes <= threshold)
    prompts, group, sizes = np.unique(hashes[candidates], return_inverse=True, return_counts=True)
    of_group = np.zeros(len(prompts), np.int8)
    for label, wanted in ((1, val_lines), (2, test_lines)):
        of_group[_take_groups(np.where(of_group == 0, sizes, 0), wanted)] = label
    labels[candidates] = of_group[group]
    return labels


def _take_groups(sizes: NDArray[np.int64], wanted: int) -> NDArray[np.int64]:
    """Which groups, from the first on, have `wanted` members in all; a group too large for what is left is passed over."""
    taken: list[NDArray[np.int64]] = []
    start = 0
    while wanted and start < len(sizes):
        whole = int(np.searchsorted(np.cumsum(sizes[start:]), wanted, side="right"))
        chosen = start + np.flatnonzero(sizes[start : start + whole])
        taken.append(chosen)
        wanted -= int(sizes[chosen].sum())
        start += whole + 1
    return np.concatenate(taken) if taken else np.zeros(0, np.int64)


def _hash_source(source: Source, split_seed: int, progress: Progress) -> U64:
    """[len(source)] the keyed hash of each line's canonical prompt."""
    hashes = np.empty(len(source), np.uint64)
    for start in range(0, len(source), _CHUNK):
        stop = min(start + _CHUNK, len(source))
        hashes[start:stop] = mix(source.keys(np.arange(start, stop)) ^ np.uint64(derive_key("split", split_seed)))
        progress(start // 4, len(source))
    return hashes


class _Tally:
    """What is counted of a split while it's written."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.lengths: list[dict[int, int]] = []
        self.kinds: dict[str, int] = {}
        self.characters: dict[str, int] = {}
        self.longest_answer = 0

    def add(self, text: Text, plan: Plan) -> None:
        """Count a shard of UTF-8 text."""
        self.digest.update(text.codes.tobytes())
        decoded = from_utf8(text.codes, text.offsets, ascii_only=bool((text.codes < 128).all()))
        self.lengths.append(_counts(decoded.lengths))
        ends = prompt_ends(decoded, plan.separator)
        self.longest_answer = max(self.longest_answer, int((decoded.offsets[1:] - 2 - ends).max()))
        for kind, count in _counts(kinds(decoded, ends, plan.symbols)).items():
            name = plan.symbols[kind] if kind >= 0 else ""
            self.kinds[name] = self.kinds.get(name, 0) + count
        for code, count in _counts(decoded.codes).items():
            self.characters[chr(code)] = self.characters.get(chr(code), 0) + count


def _counts(values: NDArray[Any]) -> dict[int, int]:
    """Value -> how often it occurs."""
    if values.dtype == np.uint8:
        counts = np.bincount(values, minlength=1)
        found = np.flatnonzero(counts)
        return dict(zip(found.tolist(), counts[found].tolist(), strict=True))
    found, counts = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def _write_splits(folder: Path, source: Source, plan: Plan, progress: Progress) -> None:
    """Write the three files, then once more with what was counted in their schemas."""
    hashes = _hash_source(source, plan.split_seed, progress)
    labels = assign_splits(hashes, plan.val_lines, plan.test_lines)
    if not (labels == 0).any():
        raise UserError(f"{plan.name}: no line is left for training; lower val_lines and test_lines")
    tallies = {}
    done = len(source) // 4
    for label, split in enumerate(SPLITS):
        tallies[split] = _write_lines(
            folder / f"{split}.part", source, plan, np.flatnonzero(labels == label), lambda n: progress(n, len(source)), done
        )
        done += int((labels == label).sum()) * 3 // 4
    meta = _describe(plan, tallies, _overlaps(hashes, labels))
    for split in SPLITS:
        _seal(folder / f"{split}.part", folder / f"{split}.arrow", meta)
    progress(len(source), len(source))


def _write_lines(
    path: Path, source: Source, plan: Plan, lines: NDArray[np.int64], progress: Callable[[int], None], done: int
) -> _Tally:
    """Write the lines with these numbers, a shard a record batch."""
    import pyarrow as pa

    tally = _Tally()
    schema = pa.schema([pa.field("line", pa.string(), nullable=False)])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for numbers in np.array_split(lines, max(1, -(-len(lines) // SHARD_LINES))) if len(lines) else []:
            for text in _bounded(source.text(numbers)):
                tally.add(text, plan)
                buffers = [None, pa.py_buffer(text.offsets.astype(np.int32)), pa.py_buffer(text.codes)]
                column = pa.Array.from_buffers(pa.string(), len(text.offsets) - 1, buffers)
                writer.write_batch(pa.record_batch([column], schema=schema))
            done += len(numbers) * 3 // 4
            progress(done)
    return tally


def _bounded(text: Text) -> Iterator[Text]:
    """`text` in parts of at most SHARD_BYTES, or of a single line where that is longer."""
    start = 0
    while start < len(text.offsets) - 1:
        limit = text.offsets[start] + SHARD_BYTES
        stop = max(start + 1, int(np.searchsorted(text.offsets, limit, side="right")) - 1)
        first, last = text.offsets[start], text.offsets[stop]
        yield Text(text.codes[first:last], text.offsets[start : stop + 1] - first)
        start = stop


def _overlaps(hashes: U64, labels: NDArray[np.int8]) -> int:
    """How many canonical prompts are in more than one split."""
    val, test = np.unique(hashes[labels == 1]), np.unique(hashes[labels == 2])
    held_out = np.union1d(val, test)
    in_train = np.unique(held_out[np.isin(held_out, hashes[labels == 0])])
    return len(np.union1d(np.intersect1d(val, test), in_train))


def _describe(plan: Plan, tallies: Mapping[str, _Tally], overlaps: int) -> Meta:
    characters = {*plan.alphabet, "\n"}.union(*(tally.characters for tally in tallies.values()))
    meta = Meta(
        name=plan.name,
        generator=plan.generator,
        options=plan.options,
        separator=plan.separator,
        characters="".join(sorted(characters)),
        symbols=plan.symbols,
        split_seed=plan.split_seed,
        lines={split: sum(sum(shard.values()) for shard in tally.lengths) for split, tally in tallies.items()},
        by_kind={split: dict(sorted(tally.kinds.items())) for split, tally in tallies.items()},
        shard_lengths={split: tally.lengths for split, tally in tallies.items()},
        characters_in={split: dict(sorted(tally.characters.items())) for split, tally in tallies.items()},
        longest_line=max(max(shard) for tally in tallies.values() for shard in tally.lengths),
        longest_answer=max(tally.longest_answer for tally in tallies.values()),
        overlaps=overlaps,
        fingerprint="",
    )
    content = {split: tally.digest.hexdigest() for split, tally in tallies.items()}
    known = json.dumps([content, {**asdict(meta), "name": ""}], sort_keys=True)
    return Meta(**{**asdict(meta), "fingerprint": hashlib.sha256(known.encode()).hexdigest()})


def _seal(part: Path, path: Path, meta: Meta) -> None:
    """Copy a file of lines to one that says in its schema what it's part of, and have it on the disk."""
    import pyarrow as pa

    with pa.memory_map(str(part)) as source, pa.OSFile(str(path), "wb") as sink:
        reader = pa.ipc.open_file(source)
        schema = reader.schema.with_metadata({_META_KEY: json.dumps(asdict(meta))})
        with pa.ipc.new_file(sink, schema) as writer:
            for number in range(reader.num_record_batches):
                writer.write_batch(reader.get_batch(number).replace_schema_metadata(schema.metadata))
    _sync(path)
    part.unlink()


def _open_arrow(path: Path) -> Any:
    """The reader of a memory-mapped file. Raises UserError where it isn't one."""
    import pyarrow as pa

    try:
        return pa.ipc.open_file(pa.memory_map(str(path)))
    except FileNotFoundError:
        raise UserError(f"{path.parent}: not a dataset, {path.name} is missing: prepare it again") from None
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{path}: damaged, prepare the dataset again ({error})") from None


def _read_meta(path: Path) -> Meta:
    if not path.exists():
        raise UserError(f"{path}: no such dataset; make it with `python -m popgpt.prepare CONFIG`")
    metadata = _open_arrow(path / "train.arrow").schema.metadata or {}
    if _META_KEY not in metadata:
        raise UserError(f"{path}: not a dataset of popgpt: its Arrow schema has no `popgpt` metadata")
    values = json.loads(metadata[_META_KEY])
    if values.get("format") != FORMAT:
        raise UserError(f"{path}: dataset of format {values.get('format')}, this popgpt reads {FORMAT}: prepare it again")
    for shards in values["shard_lengths"].values():
        shards[:] = [{int(length): count for length, count in shard.items()} for shard in shards]
    return Meta(**{field.name: values[field.name] for field in fields(Meta)})


def _hash_texts(texts: Sequence[str]) -> U64:
    """[n] `hash_spans` of whole texts."""
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), "<u4")
    offsets = np.concatenate(([0], np.cumsum([len(text) for text in texts], dtype=np.int64)))
    return hash_spans(codes, offsets[:-1], offsets[1:])
