"""Who else trains: rank, size, sums over all. Alone, a sum is what was given."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from popgpt.training.board import Board


@dataclass(frozen=True)
class World:
    """The group of workers of one run, and this worker's device."""

    device: torch.device
    rank: int = 0
    size: int = 1
    board: Board | None = None

    @classmethod
    def joined(cls, device: torch.device) -> World:
        """The process group that this process is in; alone where there is none."""
        if not dist.is_initialized():
            return cls(device)
        rank, size = dist.get_rank(), dist.get_world_size()
        return cls(device, rank, size, Board(rank, size) if device.type == "cpu" else None)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def share(self, total: int) -> range:
        """This worker's contiguous part of range(total). Parts differ by at most one."""
        return range(total * self.rank // self.size, total * (self.rank + 1) // self.size)

    def sum(self, numbers: Iterable[float]) -> list[float]:
        """Sums over all workers, in float64: exact for counts below 2**53."""
        values = torch.tensor(list(numbers), dtype=torch.float64, device=self.device)
        if self.size > 1:
            dist.all_reduce(values)
        return values.tolist()

    def sum_gradients(self, parameters: Sequence[nn.Parameter], numbers: Iterable[float]) -> list[float]:
        """Replace each gradient by its sum over all workers; the sums of `numbers`, as `sum` has them. One exchange."""
        values = torch.tensor(list(numbers), dtype=torch.float64, device=self.device)
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        if self.size > 1:
            sizes = [gradient.numel() for gradient in gradients]
            flat = self._sum_flat([gradient.flatten() for gradient in gradients], values)
            gradients = list(torch.split(flat, sizes))
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.view_as(parameter)
        return values.tolist()

    def _sum_flat(self, pieces: list[Tensor], values: Tensor) -> Tensor:
        """The pieces one after another, summed over all workers; `values` are summed in place, and are the meeting."""
        rows = self.board.rows(sum(map(len, pieces))) if self.board else None
        if rows is not None:
            torch.cat(pieces, out=rows[self.rank])
            dist.all_reduce(values)
            return rows.sum(0)
        flat = torch.cat(pieces)
        for exchange in [dist.all_reduce(tensor, async_op=True) for tensor in (flat, values)]:
            exchange.wait()
        return flat

    def owners(self, costs: Sequence[float]) -> list[int]:
        """The worker that does each piece of work: the dearest first, to whoever has least so far."""
        loads = [0.0] * self.size
        owners = [0] * len(costs)
        for piece in sorted(range(len(costs)), key=lambda piece: -costs[piece]):
            owners[piece] = loads.index(min(loads))
            loads[owners[piece]] += costs[piece]
        return owners

    def from_owners(self, tensors: Iterable[Tensor], owners: Sequence[int]) -> Iterable[Tensor]:
        """Each tensor as its owner has it, to the bit, in one exchange; of the others' only shape and type are read.

        They are to be used before the next exchange.
        """
        if self.size == 1:
            return tensors
        tensors = list(tensors)
        rows = self.board.rows(sum(tensor.numel() for tensor in tensors)) if self.board else None
        if rows is None:
            return _from_messages(tensors, owners)
        parts, at = [], 0
        for tensor, owner in zip(tensors, owners, strict=True):
            part = rows[owner, at : at + tensor.numel()].view_as(tensor)
            parts.append(part.copy_(tensor) if owner == self.rank else part)
            at += tensor.numel()
        dist.barrier()
        return parts


def _from_messages(tensors: Sequence[Tensor], owners: Sequence[int]) -> list[Tensor]:
    received = list(tensors)
    exchanges = []
    for owner in sorted(set(owners)):
        held = [index for index, other in enumerate(owners) if other == owner]
        flat = torch.cat([tensors[index].flatten() for index in held])
        for index, part in zip(held, torch.split(flat, [tensors[index].numel() for index in held]), strict=True):
            received[index] = part.view(tensors[index].shape)
        exchanges.append(dist.broadcast(flat, owner, async_op=True))
    for exchange in exchanges:
        exchange.wait()
    return received


@dataclass(frozen=True)
class Meeting:
    """Where the processes of a group find one another: a port of the first one's, and the socket that listens there."""

    host: str
    port: int
    file: int  # the socket's number in the first process

    @classmethod
    def at(cls, host: str) -> Meeting:
        """A meeting at this process. It listens on `host` alone; torch by itself would listen on every interface."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, 0), family=family)
        return cls(host, listening.getsockname()[1], listening.detach())


def join(meeting: Meeting, backend: str, rank: int, size: int, timeout: timedelta) -> None:
    """Make this process the one of `rank` in a process group of torch's. It returns when all have come.

    Args:
        backend: gloo or nccl.
        timeout: of the coming, and of each exchange.
    """
    file = meeting.file if rank == 0 else None
    store = TCPStore(
        meeting.host, meeting.port, size, rank == 0, timeout, wait_for_workers=False, master_listen_fd=file
    )
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)


def leave() -> None:
    """Leave the process group, if this process is in one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def pick_device(name: str, index: int = 0) -> torch.device:
    """The device that a config's `device` means here. Raises UserError where it asks for a GPU that is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        from popgpt.text.errors import UserError

        raise UserError("device='cuda' but this machine has no usable GPU; take device=cpu or device=auto")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", index)
