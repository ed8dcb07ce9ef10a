"""Which split of a dataset asks what a prompt asks, itself or in the same canonical form."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from popgpt.config import Config
from popgpt.data.building import assign_splits, hash_source, keyed
from popgpt.data.dataset import Dataset, plan_dataset
from popgpt.data.meta import SPLITS
from popgpt.lines.shuffle import U64
from popgpt.lines.text import from_utf8
from popgpt.tasks.base import Source
from popgpt.text.errors import UserError


class Membership:
    """The canonical prompts of each split, by the hashes that decided which split a line came to.

    The dataset's task hashes many prompts at once by their numbers, which the lines on disk no longer say. So the lines
    are drawn anew, and held to those on disk.
    """

    def __init__(self, config: Config, dataset: Dataset) -> None:
        """Raises UserError where the lines that `config` makes are not those of the dataset."""
        source, plan = plan_dataset(config)
        hashes = hash_source(source, plan.split_seed)
        labels = assign_splits(hashes, plan.val_lines, plan.test_lines)
        _check_lines(dataset, source, labels)
        self._seed = plan.split_seed
        self._hashes, first = np.unique(hashes, return_index=True)
        self._labels = labels[first]

    def splits(self, keys: U64) -> NDArray[np.int8]:
        """[n] the split that asks prompts with these `Source.keys`, as an index into SPLITS; -1 where none does."""
        hashes = keyed(keys, self._seed)
        place = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        return np.where(self._hashes[place] == hashes, self._labels[place], np.int8(-1))


def _check_lines(dataset: Dataset, source: Source, labels: NDArray[np.int8]) -> None:
    """Raises UserError unless the lines of `source` with these labels are those of the dataset's splits."""
    for label, name in enumerate(SPLITS):
        numbers, split, start = np.flatnonzero(labels == label), dataset.split(name), 0
        same = len(numbers) == len(split)
        for shard in range(split.shards if same else 0):
            lines = split.shard(shard)
            stop = start + len(lines.lengths)
            ours = source.text(numbers[start:stop])
            codes, _ = from_utf8(ours.codes, ours.offsets, ascii_only=bool((ours.codes < 128).all()))
            same, start = same and np.array_equal(codes, lines.codes), stop
        if not same:
            raise UserError(f"{split.path}: not the lines that this popgpt draws: prepare the dataset again and train")
