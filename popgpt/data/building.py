"""From lines to the files of a dataset: split by prompt, written shard by shard, moved into place at once."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from popgpt.data.arrow import check_replaceable
from popgpt.data.meta import SCHEMA_KEY, SPLITS, Meta
from popgpt.lines.shuffle import U64, derive_key, mix
from popgpt.lines.text import Text, from_utf8, kinds, prompt_ends
from popgpt.storage.folder import sync
from popgpt.tasks.base import Source
from popgpt.text.errors import UserError

SHARD_LINES = 2**18
SHARD_BYTES = 2**26
_CHUNK = 2**18

Progress = Callable[[int], None]
"""Called with how many lines more are done."""


class Plan(NamedTuple):
    """What `build_dataset` makes of a source; see `Meta`."""

    name: str
    task: str
    options: dict[str, Any]
    separator: str
    symbols: str
    split_seed: int
    val_lines: int
    test_lines: int


def build_dataset(path: Path, source: Source, plan: Plan, *, overwrite: bool = False) -> None:
    """Write a dataset so that, whenever it is killed, `path` holds the old one, none, or the whole new one.

    With `overwrite`, a dataset at `path` gives way, damaged or not; without, one that came to be there meanwhile stays.
    Raises UserError where it can't be written, something else is at `path`, or the plan can't be met.
    """
    check_replaceable(path)
    with _alone(path):
        if path.exists() and not overwrite:
            return
        work = path.parent / f".{path.name}.tmp"
        _discard(work)
        work.mkdir()
        try:
            with _progress_bar(f"preparing {plan.name}", 2 * len(source)) as progress:
                _write_splits(work, source, plan, progress)
        except BaseException:
            _discard(work)
            raise
        _move_into_place(work, path)


@contextmanager
def _progress_bar(title: str, total: int) -> Iterator[Progress]:
    """On a terminal, a bar for what takes over two seconds."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    begun = time.monotonic()
    bar = Bar(console=Console(stderr=True), transient=True)
    task = bar.add_task(title, total=total)

    def advance(done: int) -> None:
        bar.advance(task, done)
        if time.monotonic() - begun > 2:
            bar.start()

    try:
        yield advance
    finally:
        bar.stop()


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock of the dataset at `path`: who builds it at the same time waits, and then finds it there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.parent / f".{path.name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise UserError(f"{path}: cannot write the dataset: {error.strerror or error}") from error


def _discard(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)


def _move_into_place(work: Path, path: Path) -> None:
    sync(work)
    old = path.parent / f".{path.name}.old"
    _discard(old)
    if path.exists():
        path.rename(old)
    work.rename(path)
    sync(path.parent)
    _discard(old)


def assign_splits(hashes: U64, val_lines: int, test_lines: int) -> NDArray[np.int8]:
    """[n] the split of each line as an index into SPLITS, by the hash of its canonical prompt alone.

    The prompts of smallest hash make val, the next test, the rest train. A prompt with more lines than its split still
    takes is passed over, so that the counts are met exactly wherever there are prompts of few enough lines.
    """
    labels = np.zeros(len(hashes), np.int8)
    held_out = val_lines + test_lines
    for reach in (min(len(hashes), held_out + held_out // 8 + 1024), len(hashes)):
        threshold = np.partition(hashes, reach - 1)[reach - 1]
        candidates = np.flatnonzero(hashes <= threshold)
        prompts, group, sizes = np.unique(hashes[candidates], return_inverse=True, return_counts=True)
        of_group = np.zeros(len(prompts), np.int8)
        for label, wanted in ((1, val_lines), (2, test_lines)):
            of_group[_take_groups(np.where(of_group == 0, sizes, 0), wanted)] = label
        labels[candidates] = of_group[group]
        if np.count_nonzero(labels) == held_out:
            break
    return labels


def _take_groups(sizes: NDArray[np.int64], wanted: int) -> NDArray[np.int64]:
    """Which groups, from the first on, have `wanted` members in all; one too large for what is left is not."""
    taken: list[NDArray[np.int64]] = []
    start = 0
    while wanted and start < len(sizes):
        whole = int(np.searchsorted(np.cumsum(sizes[start:]), wanted, side="right"))
        chosen = start + np.flatnonzero(sizes[start : start + whole])
        taken.append(chosen)
        wanted -= int(sizes[chosen].sum())
        start += whole + 1
    return np.concatenate(taken) if taken else np.zeros(0, np.int64)


def hash_source(source: Source, split_seed: int, progress: Progress = lambda done: None) -> U64:
    """[len(source)] the keyed hash of each line's canonical prompt."""
    hashes = np.empty(len(source), np.uint64)
    for start in range(0, len(source), _CHUNK):
        stop = min(start + _CHUNK, len(source))
        hashes[start:stop] = keyed(source.keys(np.arange(start, stop)), split_seed)
        progress(stop - start)
    return hashes


def keyed(keys: U64, split_seed: int) -> U64:
    """[n] the hashes that decide the splits of lines with these keys, in an order that `split_seed` decides."""
    return mix(keys ^ np.uint64(derive_key("split", split_seed)))


class _Counted(NamedTuple):
    """What a shard holds: value -> how many. Kinds by name."""

    lengths: Counter[int]
    kinds: Counter[str]
    characters: Counter[str]
    longest_answer: int


def _count(text: Text, plan: Plan) -> _Counted:
    """Count a shard of UTF-8 text."""
    decoded = from_utf8(text.codes, text.offsets, ascii_only=bool((text.codes < 128).all()))
    ends = prompt_ends(decoded, plan.separator)
    kind_names = [*plan.symbols, ""]
    return _Counted(
        _counts(decoded.lengths),
        Counter({kind_names[kind]: n for kind, n in _counts(kinds(decoded, ends, plan.symbols)).items()}),
        Counter({chr(code): n for code, n in _counts(decoded.codes).items()}),
        int((decoded.offsets[1:] - 2 - ends).max()),
    )


def _counts(values: NDArray[Any]) -> Counter[int]:
    """Value -> how often it occurs."""
    if values.dtype == np.uint8:
        counts = np.bincount(values)
        found = np.flatnonzero(counts)
        counts = counts[found]
    else:
        found, counts = np.unique(values, return_counts=True)
    return Counter(dict(zip(found.tolist(), counts.tolist(), strict=True)))


class _Written(NamedTuple):
    """A file of lines: what each shard holds, and the digest of the text."""

    shards: list[_Counted]
    digest: str

    @property
    def lines(self) -> int:
        return sum(shard.lengths.total() for shard in self.shards)

    def total(self, field: str) -> dict[str, int]:
        """A count over all shards."""
        return dict(sorted(sum((getattr(shard, field) for shard in self.shards), Counter()).items()))


def _write_splits(folder: Path, source: Source, plan: Plan, progress: Progress) -> None:
    """Write the three files, then once more with what was counted in their schemas."""
    hashes = hash_source(source, plan.split_seed, progress)
    labels = assign_splits(hashes, plan.val_lines, plan.test_lines)
    for label, wanted in enumerate((1, plan.val_lines, plan.test_lines)):
        if wanted and not (labels == label).any():
            raise UserError(
                f"{plan.name}: no line for {SPLITS[label]}: {len(hashes)} lines with {len(np.unique(hashes))} prompts "
                f"can't be split by prompt with val_lines={plan.val_lines} and test_lines={plan.test_lines}"
            )
    overlaps = count_overlaps(hashes, labels)
    del hashes
    written = {
        split: _write_lines(folder / f"{split}.part", source, np.flatnonzero(labels == label), plan, progress)
        for label, split in enumerate(SPLITS)
    }
    meta = _describe(plan, source.alphabet, written, overlaps)
    for split in SPLITS:
        _seal(folder / f"{split}.part", folder / f"{split}.arrow", meta)


def _write_lines(path: Path, source: Source, lines: NDArray[np.int64], plan: Plan, progress: Progress) -> _Written:
    """Write the lines with these numbers, a shard a record batch."""
    import pyarrow as pa

    digest, shards = hashlib.sha256(), []
    schema = pa.schema([pa.field("line", pa.string(), nullable=False)])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for numbers in np.array_split(lines, -(-len(lines) // SHARD_LINES)) if len(lines) else []:
            for text in _bounded(source.text(numbers)):
                digest.update(text.codes.tobytes())
                shards.append(_count(text, plan))
                buffers = [None, pa.py_buffer(text.offsets.astype(np.int32)), pa.py_buffer(text.codes)]
                column = pa.Array.from_buffers(pa.string(), len(text.offsets) - 1, buffers)
                writer.write_batch(pa.record_batch([column], schema=schema))
            progress(len(numbers))
    return _Written(shards, digest.hexdigest())


def _bounded(text: Text) -> Iterator[Text]:
    """`text` in parts of at most SHARD_BYTES, or of a single line where that is longer."""
    start = 0
    while start < len(text.offsets) - 1:
        limit = text.offsets[start] + SHARD_BYTES
        stop = max(start + 1, int(np.searchsorted(text.offsets, limit, side="right")) - 1)
        first, last = text.offsets[start], text.offsets[stop]
        yield Text(text.codes[first:last], text.offsets[start : stop + 1] - first)
        start = stop


def count_overlaps(hashes: U64, labels: NDArray[np.int8]) -> int:
    """How many canonical prompts, by their hashes, are in more than one split."""
    val, test = np.unique(hashes[labels == 1]), np.unique(hashes[labels == 2])
    held_out = np.union1d(val, test)
    if not len(held_out):
        return 0
    place = np.minimum(np.searchsorted(held_out, hashes), len(held_out) - 1)
    in_train = held_out[np.unique(place[(held_out[place] == hashes) & (labels == 0)])]
    return len(np.union1d(np.intersect1d(val, test), in_train))


def _describe(plan: Plan, alphabet: str, written: Mapping[str, _Written], overlaps: int) -> Meta:
    occurring = {split: part.total("characters") for split, part in written.items()}
    meta = Meta(
        name=plan.name,
        task=plan.task,
        options=plan.options,
        separator=plan.separator,
        characters="".join(sorted({*alphabet, "\n"}.union(*occurring.values()))),
        symbols=plan.symbols,
        split_seed=plan.split_seed,
        lines={split: part.lines for split, part in written.items()},
        by_kind={split: part.total("kinds") for split, part in written.items()},
        shard_lengths={split: [dict(shard.lengths) for shard in part.shards] for split, part in written.items()},
        characters_in=occurring,
        longest_answer=max(shard.longest_answer for part in written.values() for shard in part.shards),
        overlaps=overlaps,
        fingerprint="",
    )
    content = {split: part.digest for split, part in written.items()}
    known = json.dumps([content, {**asdict(meta), "name": ""}], sort_keys=True)
    return replace(meta, fingerprint=hashlib.sha256(known.encode()).hexdigest())


def _seal(part: Path, path: Path, meta: Meta) -> None:
    """Copy a file of lines to one that says in its schema what it is part of, and have it on the disk."""
    import pyarrow as pa

    with pa.memory_map(str(part)) as source, pa.OSFile(str(path), "wb") as sink:
        reader = pa.ipc.open_file(source)
        schema = reader.schema.with_metadata({SCHEMA_KEY: meta.to_json()})
        with pa.ipc.new_file(sink, schema) as writer:
            for number in range(reader.num_record_batches):
                writer.write_batch(reader.get_batch(number).replace_schema_metadata(schema.metadata))
    sync(path)
    part.unlink()
