"""Memory that all workers of one machine see: what they exchange through it costs each a copy."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

PLACE = Path("/dev/shm")
BYTES = 4


class Board:
    """A row of float32 for each worker. A worker writes its own, meets the others, and reads theirs.

    What was read stands until this worker meets the others again, as there are two halves that take turns: whoever
    writes the first half again has met everybody over the second, and nobody reads the first any more.
    """

    def __init__(self, rank: int, size: int) -> None:
        self._rank = rank
        self._size = size
        self._halves: list[Tensor] = []
        self._none = False

    def rows(self, numbers: int) -> Tensor | None:
        """[workers, numbers] to write one's row of. None where the workers are on several machines, or one that lacks
        such memory: they are then to exchange messages. Every worker must call it with the same `numbers`.
        """
        if not self._none and (not self._halves or self._halves[0].numel() < self._size * numbers):
            memory = shared_memory(self._rank, 2 * self._size * numbers)
            self._none = memory is None
            self._halves = [] if memory is None else list(memory.chunk(2))
        if self._none:
            return None
        self._halves.reverse()
        return self._halves[0][: self._size * numbers].view(self._size, numbers)


def shared_memory(rank: int, numbers: int) -> Tensor | None:
    """float32 [numbers], the same memory for all workers; None, for all, where one of them can't have it."""
    names = [reserve(numbers * BYTES) if rank == 0 else None]
    reserved = names[0]
    try:
        dist.broadcast_object_list(names)
        memory = mapped(PLACE / names[0], numbers) if names[0] else None
        everybody = torch.tensor(memory is not None, dtype=torch.int32)
        dist.all_reduce(everybody, dist.ReduceOp.MIN)
    finally:
        if reserved:
            (PLACE / reserved).unlink()  # it stays for those who have it, and goes with the last of them
    return memory if everybody else None


def mapped(path: Path, numbers: int) -> Tensor | None:
    """A file's memory as float32 [numbers]; None where there is no such file, as on another machine."""
    if path.exists():  # torch would make it
        with suppress(OSError, RuntimeError):
            return torch.from_file(str(path), shared=True, size=numbers)
    return None


def reserve(size: int) -> str | None:
    """The name of a new file of `size` bytes that memory is set aside for; None where there is too little."""
    path = PLACE / f"popgpt-{uuid.uuid4().hex}"
    try:
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            os.posix_fallocate(file, 0, size)
        finally:
            os.close(file)
    except OSError:
        path.unlink(missing_ok=True)
        return None
    return path.name
