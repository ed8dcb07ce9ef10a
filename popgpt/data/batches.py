"""Batches as a pure function of (seed, epoch, row): which lines, in which order, packed how; and the loss mask."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from popgpt.config import SEPARATOR, Config
from popgpt.data.dataset import Dataset, Split
from popgpt.data.meta import SPLITS, Meta
from popgpt.data.packing import Pattern, pack
from popgpt.lines.shuffle import derive_key, permute
from popgpt.lines.text import I64, NEWLINE, Text
from popgpt.lines.vocabulary import Vocabulary
from popgpt.tasks.views import Reading, View
from popgpt.text.errors import UserError, shortened

IGNORE_INDEX = -1


class Batch(NamedTuple):
    """Rows of ids, all int64 [B, T].

    targets: the character after each token, IGNORE_INDEX where it isn't learned. segments: which line of its row a
    token sees, from 0; -1 is padding. positions: from the segment's start, or from where the view has a line begin.
    Where lines are not isolated, a row is one segment. Padding holds newlines that nothing learns from.
    """

    tokens: I64
    targets: I64
    segments: I64
    positions: I64


class _Packing(NamedTuple):
    """A shard's rows in an epoch's order: row r holds lines[starts[r]:starts[r + 1]]."""

    lines: I64
    starts: I64


class RowParameters(NamedTuple):
    """What decides the rows of a split: the config's parameters, the mask as a character, and the seed of the order."""

    block_size: int
    align_to_lines: bool
    isolate_lines: bool
    mask_before_token: str | None
    mask_per_line: bool
    seed: int


class Rows:
    """The rows that a split makes, epoch after epoch: row g belongs to epoch g // rows_per_epoch.

    Each epoch holds every line that fits exactly once, as `view` reads it, in a new order. Raises UserError where none
    fits in `block_size`, or where `mask_before_token` is in no line.
    """

    def __init__(self, split: Split, view: View, parameters: RowParameters) -> None:
        self._split = split
        self._view = view
        self.vocabulary = Vocabulary.of(view.alphabet)
        self._id_of = np.append(self.vocabulary.ids, -1)  # clipped to, a code past the vocabulary's last is unknown too
        self._block_size = parameters.block_size
        self._aligned = parameters.align_to_lines
        self._isolated = parameters.isolate_lines
        self._mask_before = parameters.mask_before_token
        self._mask_per_line = parameters.mask_per_line
        self._seed = parameters.seed
        self._check_mask()
        self._extra = 0 if parameters.isolate_lines else 1
        self._lengths = self._count_lengths()
        self._patterns = [self._pack(shard) for shard in self._lengths] if parameters.align_to_lines else []
        self._shard_rows = self._count_rows()
        self.rows_per_epoch = int(self._shard_rows.sum())
        self.lines_left_out = self._count_left_out()
        self._check_rows()
        self._order = lru_cache(maxsize=2)(self._order_shards)
        self._packing = lru_cache(maxsize=2)(self._pack_shard)
        self._reading = lru_cache(maxsize=2)(self._read_shard)

    def _check_mask(self) -> None:
        token = self._mask_before
        if token == NEWLINE:
            raise UserError(
                "mask_before_token='\\n' would mask every line; give the separator, or null to mask nothing"
            )
        if token is not None and not self._split.meta.characters_in[self._split.name].get(token):
            raise UserError(
                f"mask_before_token={token!r} is in no line of {self._split.name}: nothing would be learned; "
                f"the separator of this dataset is {self._split.meta.separator!r}"
            )

    def _count_lengths(self) -> list[Mapping[int, int]]:
        """For each shard, length -> lines, as the view reads them."""
        if self._view.keeps_lines:
            return [*self._split.shard_lengths]
        shards = (self._view.lengths(self._split.shard(number)) for number in range(self._split.shards))
        return [Counter(lengths.tolist()) for lengths in shards]

    def _pack(self, lengths: Mapping[int, int]) -> list[Pattern]:
        return pack({length + self._extra: count for length, count in lengths.items()}, self._block_size)

    def _count_rows(self) -> I64:
        """[shards] how many rows each makes."""
        if self._aligned:
            return np.array([sum(pattern.rows for pattern in patterns) for patterns in self._patterns], np.int64)
        sizes = [sum((length + 1) * count for length, count in shard.items()) for shard in self._lengths]
        return np.array([size // self._block_size for size in sizes], np.int64)

    def _count_left_out(self) -> int:
        room = self._block_size - self._extra
        longer = (count for shard in self._lengths for length, count in shard.items() if length > room)
        return sum(longer) if self._aligned else 0

    def _check_rows(self) -> None:
        if self.rows_per_epoch:
            return
        lengths = sum(map(Counter, self._lengths), Counter[int]())
        if self._aligned:
            shortest, longest = min(lengths) + self._extra, max(lengths) + self._extra
            raise UserError(
                f"block_size={self._block_size} holds no line of {self._split.name}: "
                f"the shortest takes {shortest}, all fit from block_size={longest} on"
            )
        size = sum((length + 1) * count for length, count in lengths.items())
        raise UserError(
            f"block_size={self._block_size} is more than all of {self._split.name}: at most {size} would do"
        )

    def at(self, rows: NDArray[Any]) -> Batch:
        """The rows with these numbers [B], from 0 on without end."""
        rows = np.asarray(rows, np.int64)
        epochs, within = rows // self.rows_per_epoch, rows % self.rows_per_epoch
        place = np.empty((len(rows), 3), np.int64)
        for epoch in np.unique(epochs):
            members = np.flatnonzero(epochs == epoch)
            shards, starts = self._order(int(epoch))
            visit = np.searchsorted(starts, within[members], side="right") - 1
            place[members] = np.stack([np.full(len(members), epoch), shards[visit], within[members] - starts[visit]], 1)
        return self._gather(place)

    def counts(self, batch: Batch) -> tuple[int, int]:
        """How many lines a batch holds (of contiguous windows: how many end in it), and how many tokens but padding."""
        real = batch.segments >= 0
        if self._aligned and self._isolated:
            return int((batch.segments.max(axis=1) + 1).sum()), int(real.sum())
        return int((real & (batch.tokens == self.vocabulary.newline)).sum()), int(real.sum())

    def weights(self, batch: Batch) -> NDArray[np.float32] | None:
        """[B, T] the weight of each target in the loss; None where each target weighs the same.

        In a view with steps it is every line that weighs the same, 1 in all: else a quotient, whose steps are many,
        would drown the sums.
        """
        if self._view.keeps_lines:
            return None
        learned = batch.targets != IGNORE_INDEX
        rows = np.arange(len(batch.targets))[:, None]
        line = (rows * self._block_size + batch.segments)[learned]
        weights = np.zeros(batch.targets.shape, np.float32)
        weights[learned] = 1 / np.bincount(line)[line]
        return weights

    def _gather(self, place: I64) -> Batch:
        """The batch of rows given as (epoch, shard, row of the shard) [B, 3]."""
        build = self._aligned_rows if self._aligned else self._windows
        kinds, group = (
            np.unique(place[:, :2], axis=0, return_inverse=True) if len(place) else (place[:, :2], place[:, 0])
        )
        if len(kinds) == 1:
            return build(int(kinds[0, 0]), int(kinds[0, 1]), place[:, 2])
        batch = Batch(*(np.empty((len(place), self._block_size), np.int64) for _ in Batch._fields))
        for number, (epoch, shard) in enumerate(kinds):
            members = np.flatnonzero(group.ravel() == number)
            for whole, part in zip(batch, build(int(epoch), int(shard), place[members, 2]), strict=True):
                whole[members] = part
        return batch

    def _order_shards(self, epoch: int) -> tuple[I64, I64]:
        """The shards in the order an epoch visits them, and the first row of each visit."""
        count = len(self._shard_rows)
        order = permute(np.arange(count), count, derive_key("shards", self._seed, epoch)).astype(np.int64)
        return order, np.cumsum(self._shard_rows[order]) - self._shard_rows[order]

    def _read_shard(self, epoch: int, shard: int) -> Reading:
        """A shard's lines as the view reads them in an epoch."""
        text = self._split.shard(shard)
        first = sum(sum(lengths.values()) for lengths in self._lengths[:shard])
        return self._view.read(text, first + np.arange(len(text.lengths)), self._seed, epoch)

    def _read(self, epoch: int, shard: int) -> Reading:
        return self._reading(0 if self._view.keeps_lines else epoch, shard)

    def _pack_shard(self, epoch: int, shard: int) -> _Packing:
        """Which lines each row of a shard holds: patterns in a random order, each slot a random line of its length."""
        patterns = self._patterns[shard]
        slot_counts = np.array([len(pattern.lengths) for pattern in patterns])
        slot_lengths = np.concatenate([pattern.lengths for pattern in patterns])
        slot_starts = np.cumsum(slot_counts) - slot_counts
        rows = int(self._shard_rows[shard])
        shuffled = permute(np.arange(rows), rows, derive_key("rows", self._seed, epoch, shard)).astype(np.int64)
        pattern = np.repeat(np.arange(len(patterns)), [pattern.rows for pattern in patterns])[shuffled]
        counts = slot_counts[pattern]
        starts = np.concatenate(([0], np.cumsum(counts)))
        row = np.repeat(np.arange(rows), counts)
        slot = (np.arange(starts[-1]) - starts[row] + shuffled[row]) % counts[row]
        wanted = slot_lengths[slot_starts[pattern[row]] + slot]
        lines = np.empty(len(wanted), np.int64)
        lines[np.argsort(_narrow(wanted), kind="stable")] = self._lines_by_length(epoch, shard)
        return _Packing(lines, starts)

    def _lines_by_length(self, epoch: int, shard: int) -> I64:
        """The lines of a shard that fit, shortest first, lines of one length in a random order."""
        lengths = self._view.lengths(self._split.shard(shard)) + self._extra
        count = len(lengths)
        order = permute(np.arange(count), count, derive_key("lines", self._seed, epoch, shard)).astype(np.int64)
        order = order[lengths[order] <= self._block_size]
        return order[np.argsort(_narrow(lengths[order]), kind="stable")]

    def _aligned_rows(self, epoch: int, shard: int, rows: I64) -> Batch:
        reading, packing = self._read(epoch, shard), self._packing(epoch, shard)
        text = reading.text
        counts = packing.starts[rows + 1] - packing.starts[rows]
        line_starts = np.cumsum(counts) - counts
        row = np.repeat(np.arange(len(rows)), counts)
        segment = np.arange(len(row)) - line_starts[row]
        lines = packing.lines[packing.starts[rows][row] + segment]
        sources = text.offsets[lines].astype(np.int64)
        sizes = text.offsets[lines + 1] - sources - (1 - self._extra)
        begins = np.cumsum(sizes) - sizes
        of = np.repeat(np.arange(len(lines)), sizes)
        flat = np.arange(len(of))
        source = flat + (sources - begins)[of]
        at = flat + (row * self._block_size - begins[line_starts][row])[of]
        tokens, targets = self._ids(text, source), self._ids(text, source + 1)
        if not self._isolated:
            ends = begins + sizes - 1
            targets[ends[:-1]] = tokens[begins[1:]]
            targets[ends[line_starts + counts - 1]] = IGNORE_INDEX
        if self._mask_before is not None and self._mask_per_line:
            targets[source < reading.ends[lines][of]] = IGNORE_INDEX
            if not self._isolated:
                targets[ends] = IGNORE_INDEX
        positions = flat - begins[of] if self._isolated else at % self._block_size
        if not self._view.keeps_lines:
            positions += reading.origins[lines][of]
        segments = segment[of] if self._isolated else np.zeros(len(of), np.int64)
        return self._masked_once(self._scatter(len(rows), at, Batch(tokens, targets, segments, positions)))

    def _scatter(self, rows: int, at: I64, flat: Batch) -> Batch:
        """Values [C] at places `at` of rows [B, T]; padding elsewhere."""
        blanks = (self.vocabulary.newline, IGNORE_INDEX, -1, 0)
        arrays = []
        for blank, values in zip(blanks, flat, strict=True):
            array = np.full(rows * self._block_size, blank, np.int64)
            array[at] = values
            arrays.append(array.reshape(rows, self._block_size))
        return Batch(*arrays)

    def _masked_once(self, batch: Batch) -> Batch:
        """The batch with the targets masked up to the first token of the mask in each row, if that is what is asked."""
        if self._mask_before is not None and not self._mask_per_line:
            token = self.vocabulary.characters.index(self._mask_before)
            seen = np.logical_or.accumulate(batch.tokens == token, axis=1)
            batch.targets[~seen] = IGNORE_INDEX
        return batch

    def _windows(self, epoch: int, shard: int, rows: I64) -> Batch:
        """Contiguous windows of a shard, taken as a ring of characters from a random place of it on."""
        reading, count = self._read(epoch, shard), int(self._shard_rows[shard])
        text = reading.text
        size, width = int(text.offsets[-1]), self._block_size
        first = derive_key("start", self._seed, epoch, shard) % size
        window = permute(rows, count, derive_key("windows", self._seed, epoch, shard)).astype(np.int64)
        begins = (first + window * width) % size
        source = begins[:, None] + np.arange(width + 1)
        ids = self._ids(text, np.where(source < size, source, source - size))
        tokens, targets, source = ids[:, :-1].copy(), ids[:, 1:].copy(), source[:, :-1]
        newline = tokens == self.vocabulary.newline
        line = np.cumsum(newline, axis=1) - newline
        if self._mask_before is not None and self._mask_per_line:
            first_line = np.searchsorted(text.offsets, begins, side="right") - 1
            ends = np.concatenate((reading.ends, reading.ends + size))  # the second time around the ring
            targets[(source < ends[first_line[:, None] + line]) | newline] = IGNORE_INDEX
        positions = np.broadcast_to(np.arange(width), tokens.shape).copy()
        if not self._isolated:
            return self._masked_once(Batch(tokens, targets, np.zeros_like(tokens), positions))
        targets[newline] = IGNORE_INDEX
        starts = np.zeros_like(tokens)
        starts[:, 1:] = np.maximum.accumulate(np.where(newline, positions + 1, 0), axis=1)[:, :-1]
        return self._masked_once(Batch(tokens, targets, line, positions - starts))

    def _ids(self, text: Text, places: I64) -> I64:
        """The ids of the characters at `places`; a place past the end gives the last one's."""
        ids: I64 = self._id_of.take(text.codes.take(places, mode="clip"), mode="clip")
        if ids.size and ids.min() < 0:
            raise UserError(f"{self._split.path}: damaged, prepare it again")
        return ids


def _narrow(lengths: I64) -> NDArray[Any]:
    """The same lengths in the type that sorts fastest."""
    return lengths.astype(np.uint16) if lengths.max(initial=0) < 2**16 else lengths


def mask_token(config: Config, meta: Meta) -> str | None:
    """The character up to which the targets of a line are masked: the dataset's separator; None: nothing is masked.

    Raises UserError where the config names another, which would have a run learn other characters than the answers.
    """
    token = config.mask_before_token
    if token not in (None, SEPARATOR, meta.separator):
        raise UserError(
            f"mask_before_token={shortened(token)} is not the separator of dataset={meta.name}, {meta.separator!r}: "
            f"leave it out, or give null to learn the prompts too"
        )
    return meta.separator if token else None


def make_rows(config: Config, dataset: Dataset, split: str, seed: int) -> Rows:
    """The rows that `config` makes of a split, in the order of `seed`; packed once, and kept with the split."""
    parameters = RowParameters(
        block_size=config.block_size,
        align_to_lines=config.align_to_lines,
        isolate_lines=config.isolate_lines,
        mask_before_token=mask_token(config, dataset.meta),
        mask_per_line=config.mask_per_line,
        seed=seed,
    )
    opened = dataset.split(split)
    key = (config.view, parameters)
    return opened.keep(key, lambda: Rows(opened, open_view(config, dataset.meta), parameters))


def open_view(config: Config, meta: Meta) -> View:
    """The run's view of a dataset's lines."""
    return config.open_view(meta.vocabulary.characters.replace(NEWLINE, ""), meta.separator, meta.longest_answer)


def line_room(config: Config) -> float:
    """The characters of the longest line that a row holds: any line's in a view with a width of its own."""
    if not config.open_view("", config.task.separator).keeps_lines:
        return math.inf
    return config.block_size - int(config.align_to_lines and not config.isolate_lines)


def count_left_out(config: Config, meta: Meta) -> dict[str, int]:
    """For train and val, how many lines no row holds, since they are too long; windows leave none out."""
    return {
        split: meta.count_longer(split, line_room(config)) if config.align_to_lines else 0 for split in ("train", "val")
    }


def describe_too_long(config: Config, meta: Meta, splits: Sequence[str] = ("train", "val")) -> str:
    """How many lines of these splits are too long for `block_size`, and what that means, in words; "" for none.

    Exact match is over all lines of a split: one that can't be asked or answered to its end is wrong.
    """
    concerned = [split for split in splits if split != "train" or config.align_to_lines]  # windows train on their parts
    counts = {split: count for split in concerned if (count := meta.count_longer(split, line_room(config)))}
    if not counts:
        return ""
    meanings = []
    if "train" in counts:
        meanings.append("left out of training")
    if counts.keys() - {"train"}:
        meanings += ["left out of the loss and token accuracy"] if config.align_to_lines else []
        meanings.append("counted as wrong by exact match")
    lines = " and ".join(f"{count:,} of {meta.lines[split]:,} lines of {split}" for split, count in counts.items())
    longest = max(max(meta.lengths(split)) for split in SPLITS if meta.lines[split])
    enough = f"block_size={longest + config.block_size - int(line_room(config))} holds all"
    return f"{lines} are too long for block_size={config.block_size}: {', '.join(meanings)}; {enough}"
