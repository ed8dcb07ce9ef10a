"""The rows of an iteration as tensors, those of the next made while a GPU computes; and what of them is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from popgpt.config import Config
from popgpt.data.batches import IGNORE_INDEX, Batch, Rows
from popgpt.lines.shuffle import derive_key, mix
from popgpt.training.world import World


class Inputs(NamedTuple):
    """A batch as tensors.

    ids: int32 [4, B, T], the fields of a Batch.
    weights: float32 [B, T], of the targets in the loss; None: each weighs 1.
    row_keys: int32 [B], the key of each row's dropout; None: no dropout.
    """

    ids: Tensor
    weights: Tensor | None = None
    row_keys: Tensor | None = None

    @classmethod
    def of(cls, batch: Batch, weights: NDArray[np.float32] | None = None, row_keys: Tensor | None = None) -> Inputs:
        ids = torch.from_numpy(np.stack(batch).astype(np.int32))
        return cls(ids, None if weights is None else torch.from_numpy(weights), row_keys)

    def pinned(self) -> Inputs:
        """Return the same in memory that a GPU can copy while the CPU goes on."""
        return self._each(Tensor.pin_memory)

    def to(self, device: torch.device) -> Inputs:
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        others = (None if tensor is None else change(tensor) for tensor in self[1:])
        return Inputs(change(self.ids), *others)


class MicroBatch(NamedTuple):
    """What a micro-step reads, and what the sums of an iteration count of it."""

    inputs: Inputs
    weight: int  # of its targets
    lines: int
    tokens: int


class Feed:
    """The micro-batches of this worker in each iteration, batch_size rows at a time."""

    def __init__(self, rows: Rows, config: Config, world: World) -> None:
        self._rows, self._config = rows, config
        self._share = world.share(config.rows_per_iteration)
        self._ahead = ThreadPoolExecutor(1) if world.device.type == "cuda" else None
        self._next: tuple[int, Future[list[MicroBatch]]] | None = None

    def at(self, iteration: int) -> Iterable[MicroBatch]:
        """Return an iteration's micro-batches. For a GPU a thread then makes those of the next."""
        if self._ahead is None:
            return self._made(iteration)
        made = self._next[1].result() if self._next and self._next[0] == iteration else self._pinned(iteration)
        self._next = iteration + 1, self._ahead.submit(self._pinned, iteration + 1)
        return made

    def _pinned(self, iteration: int) -> list[MicroBatch]:
        return [each._replace(inputs=each.inputs.pinned()) for each in self._made(iteration)]

    def _made(self, iteration: int) -> Iterator[MicroBatch]:
        first, size = iteration * self._config.rows_per_iteration, self._config.batch_size
        for start in range(self._share.start, self._share.stop, size):
            numbers = first + np.arange(start, min(start + size, self._share.stop))
            batch = self._rows.at(numbers)
            weights = self._rows.weights(batch)
            inputs = Inputs.of(batch, weights, dropout_keys(self._config, numbers))
            yield MicroBatch(inputs, total_weight(batch, weights), *self._rows.counts(batch))


def total_weight(batch: Batch, weights: NDArray[np.float32] | None) -> int:
    """What the sum of a batch's loss is divided by: how many targets there are, or lines where those weigh the same."""
    return int((batch.targets != IGNORE_INDEX).sum()) if weights is None else round(float(weights.sum(dtype=float)))


def dropout_keys(config: Config, row_numbers: np.ndarray) -> Tensor | None:
    """Return int32 [B], a key for each global row; None if dropout is 0. A row number names its iteration too."""
    if config.dropout == 0:
        return None
    keys = mix(row_numbers.astype(np.uint64) ^ np.uint64(derive_key("dropout", config.seed))) >> np.uint64(32)
    return torch.from_numpy(keys.astype(np.uint32).view(np.int32))
