"""What workers share: their parts, sums, and what one of them computes for all. Each world is gloo processes here."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from popgpt.training import shared_memory
from popgpt.training.optim import Muon
from popgpt.training.world import World

CPU = torch.device("cpu")
SHAPES = [(8, 8), (8, 24), (32, 8), (8, 8), (16, 12)]


def in_worlds(work: Callable[[World], Any], size: int, folder: Path) -> list[Any]:
    """What `work` returns on each of `size` workers, in the order of their ranks."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(size) as pool:
        return pool.starmap(join, [(work, rank, size, str(folder / "store")) for rank in range(size)], chunksize=1)


def join(work: Callable[[World], Any], rank: int, size: int, store: str) -> Any:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    try:
        return work(World.joined(CPU))
    finally:
        dist.destroy_process_group()


def random(seed: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def muon_steps(world: World) -> list[list[list[float]]]:
    """Weights and momenta after three of Muon's steps; the gradients are the same in every world."""
    weights = [nn.Parameter(random(index, shape)) for index, shape in enumerate(SHAPES)]
    muon = Muon(weights, lr=0.1, weight_decay=0.1, world=world)
    for step in range(3):
        for index, weight in enumerate(weights):
            weight.grad = random(100 * (step + 1) + index, SHAPES[index])
        muon.step()
    return [tensor.tolist() for weight in weights for tensor in (weight.detach(), muon.state[weight]["momentum"])]


def sums(world: World) -> tuple[list[float], list[float], list[list[float]]]:
    """Sums over ranks of (rank, a count beyond float32), twice, and of gradients, of which one is missing on rank 0."""
    given, missing = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1, 1))
    given.grad = torch.tensor([1.0, 2.0 * world.rank])
    if world.rank:
        missing.grad = torch.full((1, 1), 6.0)
    numbers = [world.rank, 2**53 // world.size]
    beside = world.sum_gradients([given, missing], torch.tensor(numbers, dtype=torch.float64)).tolist()
    return world.sum(numbers), beside, [p.grad.flatten().tolist() for p in (given, missing) if p.grad is not None]


def both(world: World) -> Any:
    return muon_steps(world), sums(world)


def by_messages(world: World) -> Any:
    """The same, where one worker doesn't see the memory of the others."""
    if world.rank == 1:
        shared_memory.SHARED_MEMORY = Path("/proc/self/nowhere")
    return both(world)


@pytest.mark.parametrize("work", [both, by_messages])
def test_three_workers_sum_and_share_out_muon_to_the_bit(work: Callable[[World], Any], tmp_path: Path) -> None:
    alone = muon_steps(World(CPU))
    for steps, (numbers, beside, gradients) in in_worlds(work, 3, tmp_path):
        assert steps == alone
        assert numbers == beside == [3, 2**53 // 3 * 3]
        assert gradients == [[3, 6], [12]]


def test_alone_a_sum_is_what_was_given() -> None:
    assert sums(World(CPU)) == ([0, 2**53], [0, 2**53], [[1, 0], [0]])


@given(st.integers(0, 200), st.integers(1, 9))
def test_shares_follow_one_another_and_differ_by_at_most_one(total: int, size: int) -> None:
    shares = [World(CPU, rank, size).share(total) for rank in range(size)]
    assert [number for share in shares for number in share] == list(range(total))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(st.lists(st.integers(1, 100), max_size=20), st.integers(1, 5))
def test_owners_are_balanced_and_the_same_on_every_worker(costs: list[int], size: int) -> None:
    owners = World(CPU, 0, size).owners(costs)
    assert all(World(CPU, rank, size).owners(costs) == owners for rank in range(size))
    loads = [sum(cost for cost, owner in zip(costs, owners, strict=True) if owner == rank) for rank in range(size)]
    assert max(loads) - min(loads) <= max(costs, default=0)
