"""Memory that workers share: each reads what all wrote, for as long as is promised, and nothing is left behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from popgpt.training import shared_memory
from popgpt.training.world import World
from tests.training.test_world import in_worlds


def exchanges(world: World) -> list[list[float]]:
    """What this worker reads of all after each of four exchanges, of ever more numbers, once it began the next."""
    assert world.exchange
    read: list[list[float]] = []
    last = torch.empty(0, 1)
    for number, length in enumerate((2, 2, 2, 3, 3)):
        rows = world.exchange.buffer(length)
        assert rows is not None
        rows[world.rank] = 10 * number + world.rank
        read.append(last[:, 0].tolist())
        dist.barrier()
        last = rows
    return read[1:]


def seen(world: World) -> tuple[bool, list[str]]:
    """Whether there is memory to share, and the files of it that have a name once all have it."""
    assert world.exchange
    there = world.exchange.buffer(1000) is not None
    dist.barrier()
    return there, sorted(path.name for path in shared_memory.SHARED_MEMORY.glob("popgpt-*"))


def too_much(world: World) -> bool:
    assert world.exchange
    return world.exchange.buffer(2**50) is None and world.exchange.buffer(1) is None


def test_each_reads_what_all_wrote_until_it_writes_again(tmp_path: Path) -> None:
    expected = [[10.0 * number + rank for rank in range(3)] for number in range(4)]
    assert in_worlds(exchanges, 3, tmp_path) == [expected] * 3


def test_memory_has_no_name_once_all_have_it(tmp_path: Path) -> None:
    if not os.access(shared_memory.SHARED_MEMORY, os.W_OK):
        pytest.skip("this system has no such memory")
    before = sorted(path.name for path in shared_memory.SHARED_MEMORY.glob("popgpt-*"))
    assert in_worlds(seen, 2, tmp_path) == [(True, before)] * 2


def test_more_than_there_is_is_refused_to_all_for_good(tmp_path: Path) -> None:
    assert in_worlds(too_much, 2, tmp_path) == [True, True]
