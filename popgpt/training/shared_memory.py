"""Exchange between the workers of one machine through memory that they share, which costs each worker a copy."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

SHARED_MEMORY = Path("/dev/shm")
FLOAT_BYTES = 4


class SharedMemoryExchange:
    """A float32 row for each worker. A worker writes its own row, meets the others, and reads theirs.

    The memory has two halves that take turns, so what a worker read stays valid until it meets the others again: a
    worker that writes the first half again has met everybody over the second, and nobody reads the first any more.
    """

    def __init__(self, rank: int, size: int) -> None:
        self._rank = rank
        self._size = size
        self._halves: list[Tensor] = []
        self._unavailable = False

    def buffer(self, numbers: int) -> Tensor | None:
        """Return [workers, numbers], of which this worker writes its own row.

        Returns None if the workers are on several machines, or on one without enough such memory; they then exchange
        messages. Every worker must call this with the same `numbers`.
        """
        if not self._unavailable and (not self._halves or self._halves[0].numel() < self._size * numbers):
            memory = allocate_shared(self._rank, 2 * self._size * numbers)
            self._unavailable = memory is None
            self._halves = [] if memory is None else list(memory.chunk(2))
        if self._unavailable:
            return None
        self._halves.reverse()
        return self._halves[0][: self._size * numbers].view(self._size, numbers)


def allocate_shared(rank: int, numbers: int) -> Tensor | None:
    """Return float32 [numbers], the same memory for all workers; None, for all, if one of them can't have it."""
    names = [reserve_file(numbers * FLOAT_BYTES) if rank == 0 else None]
    reserved = names[0]
    try:
        dist.broadcast_object_list(names)
        memory = map_file(SHARED_MEMORY / names[0], numbers) if names[0] else None
        all_have_it = torch.tensor(memory is not None, dtype=torch.int32)
        dist.all_reduce(all_have_it, dist.ReduceOp.MIN)
    finally:
        if reserved:
            (SHARED_MEMORY / reserved).unlink()  # the memory stays until the last worker ends
    return memory if all_have_it else None


def map_file(path: Path, numbers: int) -> Tensor | None:
    """Return a file's memory as float32 [numbers]; None if there is no such file, as on another machine."""
    if path.exists():  # torch would create it
        with suppress(OSError, RuntimeError):
            return torch.from_file(str(path), shared=True, size=numbers)
    return None


def reserve_file(size: int) -> str | None:
    """Create a file of `size` bytes with its memory set aside. Returns its name, or None if there is too little."""
    path = SHARED_MEMORY / f"popgpt-{uuid.uuid4().hex}"
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
