"""The workers that train one run: rank, size, sums over all. A worker that is alone exchanges nothing."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from popgpt.training.shared_memory import SharedMemoryExchange


@dataclass(frozen=True)
class World:
    """The group of workers of one run, and this worker's device."""

    device: torch.device
    rank: int = 0
    size: int = 1
    exchange: SharedMemoryExchange | None = None

    @classmethod
    def joined(cls, device: torch.device) -> World:
        """Return the world of this process's process group; without one, that of a worker alone."""
        if not dist.is_initialized():
            return cls(device)
        rank, size = dist.get_rank(), dist.get_world_size()
        return cls(device, rank, size, SharedMemoryExchange(rank, size) if device.type == "cpu" else None)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def share(self, total: int) -> range:
        """Return this worker's contiguous part of range(total). Parts differ by at most one."""
        return range(total * self.rank // self.size, total * (self.rank + 1) // self.size)

    def sum(self, numbers: Iterable[float]) -> list[float]:
        """Return sums over all workers, in float64, so counts below 2**53 are exact."""
        values = torch.tensor(list(numbers), dtype=torch.float64, device=self.device)
        if self.size > 1:
            dist.all_reduce(values)
        return values.tolist()

    def sum_gradients(self, parameters: Sequence[nn.Parameter], numbers: Tensor) -> Tensor:
        """Replace each gradient by its sum over all workers, and return the sums of `numbers`, all in one exchange.

        `numbers` are float64 and changed in place, so counts below 2**53 are exact.
        """
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        if self.size > 1:
            sizes = [gradient.numel() for gradient in gradients]
            flat = self._sum_flat([gradient.flatten() for gradient in gradients], numbers)
            gradients = list(torch.split(flat, sizes))
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.view_as(parameter)
        return numbers

    def _sum_flat(self, pieces: list[Tensor], values: Tensor) -> Tensor:
        """Return the concatenated pieces summed over all workers. To sum `values`, in place, is the meeting."""
        rows = self.exchange.buffer(sum(map(len, pieces))) if self.exchange else None
        if rows is not None:
            torch.cat(pieces, out=rows[self.rank])
            dist.all_reduce(values)
            return rows.sum(0)
        flat = torch.cat(pieces)
        for exchange in [dist.all_reduce(tensor, async_op=True) for tensor in (flat, values)]:
            exchange.wait()
        return flat

    def owners(self, costs: Sequence[float]) -> list[int]:
        """Return the worker that does each piece of work: the dearest first, to the worker with the least so far."""
        loads = [0.0] * self.size
        owners = [0] * len(costs)
        for piece in sorted(range(len(costs)), key=lambda piece: -costs[piece]):
            owners[piece] = loads.index(min(loads))
            loads[owners[piece]] += costs[piece]
        return owners

    def from_owners(self, tensors: Iterable[Tensor], owners: Sequence[int]) -> Iterable[Tensor]:
        """Return each tensor as its owner has it, to the bit, in one exchange.

        Of a tensor that another worker owns only shape and type are read. Use the results before the next exchange.
        """
        if self.size == 1:
            return tensors
        tensors = list(tensors)
        rows = self.exchange.buffer(sum(tensor.numel() for tensor in tensors)) if self.exchange else None
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
    """Where the processes of a group meet: a port of the first process, and the socket that listens there."""

    host: str
    port: int
    file: int  # the socket's number in the first process

    @classmethod
    def at(cls, host: str) -> Meeting:
        """Return a meeting at this process. It listens on `host` alone; torch itself would listen everywhere."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, 0), family=family)
        return cls(host, listening.getsockname()[1], listening.detach())


def join(meeting: Meeting, backend: str, rank: int, size: int, timeout: timedelta) -> None:
    """Make this process the one of `rank` in torch's process group. Returns when all processes have come.

    Args:
        backend: gloo or nccl.
        timeout: for all to come, and for each exchange.
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
    """Return the device that a config's `device` means here. Raises UserError if there is no GPU that it asks for."""
    if name == "cuda" and not torch.cuda.is_available():
        from popgpt.text.errors import UserError

        raise UserError("device='cuda' but this machine has no usable GPU; take device=cpu or device=auto")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", index)
