"""The learning rate at an iteration, and the optimizers of a model's parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from popgpt.config import Config
from popgpt.model.gpt import GPT
from popgpt.training.world import World

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ALONE = World(torch.device("cpu"))


def lr_at(iteration: int, config: Config) -> float:
    """Learning rate of the step that follows `iteration` finished ones.

    Linear over warmup_iters, cosine to min_lr at lr_decay_iters, min_lr after.
    """
    if iteration < config.warmup_iters:
        return config.learning_rate * (iteration + 1) / config.warmup_iters
    if iteration >= config.lr_decay_iters:
        return config.min_lr
    progress = (iteration - config.warmup_iters) / (config.lr_decay_iters - config.warmup_iters)
    return config.min_lr + 0.5 * (1 + math.cos(math.pi * progress)) * (config.learning_rate - config.min_lr)


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalized by Newton-Schulz (Jordan et al. 2024), scaled to AdamW's step (Liu et al. 2025).

    The iteration runs in the gradient's own precision. torch.optim.Muon's is in bfloat16, whose rounding turns the
    last bit of a sum, which depends on the number of workers, into another step.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        world: World = ALONE,
    ):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._world = world

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            for parameter, direction in zip(parameters, self._directions(parameters, group["momentum"]), strict=True):
                scale = 0.2 * math.sqrt(max(parameter.shape))
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-group["lr"] * scale)

    def _directions(self, parameters: list[Tensor], momentum: float) -> Iterable[Tensor]:
        """Each parameter's direction. A worker orthogonalizes its part of the matrices and gets the others'."""
        owners = self._world.owners([newton_schulz_cost(p) for p in parameters])
        return self._world.from_owners(
            (self._direction(p, momentum, owner) for p, owner in zip(parameters, owners, strict=True)), owners
        )

    def _direction(self, parameter: Tensor, momentum: float, owner: int) -> Tensor:
        """The momentum moves on every worker, so that each holds the whole state; what it gives only on the owner."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        moved = state["momentum"].lerp_(parameter.grad, 1 - momentum)
        if owner != self._world.rank:
            return torch.empty_like(parameter)
        return orthogonalize(parameter.grad.lerp(moved, momentum))


def orthogonalize(matrix: Tensor, steps: int = 5) -> Tensor:
    """[m, n] -> a matrix with its singular vectors and singular values near 1."""
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


def newton_schulz_cost(matrix: Tensor) -> int:
    """Multiplications of one of orthogonalize's steps, [m, n] -> a number."""
    short, long = sorted(matrix.shape)
    return short * short * (2 * long + short)


def layout(shapes: Mapping[str, Sequence[int]], optimizer: str) -> list[list[list[str]]]:
    """The tensors of each group of each optimizer, by name: the blocks' matrices under `optimizer`, everything else
    under AdamW, with the vectors, which do not decay, in a group of their own.
    """
    matrices = [name for name, shape in shapes.items() if len(shape) == 2 and name.startswith("blocks.")]
    tables = [name for name, shape in shapes.items() if len(shape) == 2 and not name.startswith("blocks.")]
    vectors = [name for name, shape in shapes.items() if len(shape) < 2]
    return [[matrices], [tables, vectors]] if optimizer == "muon" else [[tables + matrices, vectors]]


def make_optimizers(model: GPT, config: Config, world: World) -> list[torch.optim.Optimizer]:
    """The optimizers of `layout`.

    Muon's work is shared out over `world`; every worker must step with the same gradients.
    """
    named = dict(model.named_parameters())
    *muon, (decaying, vectors) = layout({name: p.shape for name, p in named.items()}, config.optimizer)
    groups = [
        {"params": [named[name] for name in decaying], "weight_decay": config.weight_decay},
        {"params": [named[name] for name in vectors], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)
    if not muon:
        return [adamw]
    matrices = [named[name] for name in muon[0][0]]
    return [Muon(matrices, config.learning_rate, weight_decay=config.weight_decay, world=world), adamw]


def set_lr(optimizers: Iterable[torch.optim.Optimizer], lr: float) -> None:
    """Give every group the learning rate `lr`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Parameters in a fixed order, the same on every worker."""
    return [p for p in model.parameters() if p.requires_grad]
