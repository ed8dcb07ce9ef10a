"""The learning rate at an iteration, and the optimizers of a model's parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from popgpt.config import Config
from popgpt.model.gpt import GPT
from popgpt.training.world import World

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ALONE = World(torch.device("cpu"))


def lr_at(iteration: int, config: Config) -> float:
    """Return the learning rate of the step that follows `iteration` finished ones.

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
            directions = self._directions(parameters, group["momentum"])
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(direction, alpha=-group["lr"] * 0.2 * math.sqrt(max(parameter.shape)))

    def _directions(self, parameters: list[Tensor], momentum: float) -> Iterable[Tensor]:
        """Update each parameter's momentum, and return the directions that they give.

        A worker computes the directions of its part and receives the others; every worker holds all momenta.
        """
        owners = self._world.owners([newton_schulz_cost(p) for p in parameters])
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        moved = [self._momentum(parameter) for parameter in parameters]
        torch._foreach_lerp_(moved, gradients, 1 - momentum)
        mine = [number for number, owner in enumerate(owners) if owner == self._world.rank]
        directions = [*parameters]  # those of other workers are only looked at for their shapes
        for stack in stacks([parameters[number] for number in mine]):
            members = [mine[place] for place in stack]
            found = orthogonalize(torch.stack([gradients[each].lerp(moved[each], momentum) for each in members]))
            for number, direction in zip(members, found, strict=True):
                directions[number] = direction
        return self._world.from_owners(directions, owners)

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        return state["momentum"]


def stacks(matrices: Sequence[Tensor]) -> list[list[int]]:
    """Return the numbers of the matrices that are orthogonalized at once.

    On a GPU those of one shape are, as each product by itself is too small for it. A CPU gains nothing by that.
    """
    found: dict[object, list[int]] = {}
    for number, matrix in enumerate(matrices):
        found.setdefault(matrix.shape if matrix.is_cuda else number, []).append(number)
    return [*found.values()]


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """Return the matrices [N, m, n] that have the singular vectors of `matrices` and singular values near 1.

    A step is x -> p(x x') x, with a polynomial p. All of them are polynomials in the first x x', so the steps are taken
    on that small square matrix, and their product is applied once (Gram Newton-Schulz).
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    gram = x @ x.mT
    product = None
    for step in range(steps):
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal(dim1=1, dim2=2).add_(a)
        product = polynomial if product is None else polynomial @ product
        if step + 1 < steps:
            gram = polynomial @ gram @ polynomial
    x = x if product is None else product @ x
    return x.mT if tall else x


def newton_schulz_cost(matrix: Tensor) -> int:
    """Return how many multiplications orthogonalize takes for a matrix [m, n]."""
    short, long = sorted(matrix.shape)
    return short * short * (2 * long + 17 * short)


class OptimizerKind(NamedTuple):
    """How an optimizer is made of groups of parameters, and what a checkpoint holds of it."""

    make: Callable[[list[list[nn.Parameter]], Config, World], torch.optim.Optimizer]
    moments: tuple[str, ...]  # what it keeps of each tensor once it has taken a step
    numbers: tuple[str, ...]  # its hyperparameters that are numbers


def _make_adamw(groups: list[list[nn.Parameter]], config: Config, world: World) -> torch.optim.Optimizer:
    """AdamW, whose last group does not decay."""
    *decaying, vectors = groups
    given = [*({"params": group, "weight_decay": config.weight_decay} for group in decaying)]
    given.append({"params": vectors, "weight_decay": 0.0})
    return torch.optim.AdamW(given, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)


def _make_muon(groups: list[list[nn.Parameter]], config: Config, world: World) -> torch.optim.Optimizer:
    (matrices,) = groups
    return Muon(matrices, config.learning_rate, weight_decay=config.weight_decay, world=world)


ADAMW = OptimizerKind(_make_adamw, ("step", "exp_avg", "exp_avg_sq"), ("lr", "eps", "weight_decay"))
OPTIMIZERS = {
    "muon": OptimizerKind(_make_muon, ("momentum",), ("lr", "momentum", "weight_decay")),
    "adamw": ADAMW,
}
"""By the parameter `optimizer`: what steps the blocks' matrices. AdamW steps everything else."""


def layout(shapes: Mapping[str, Sequence[int]], optimizer: str) -> list[tuple[OptimizerKind, list[list[str]]]]:
    """Return each optimizer of a model with the names of the tensors in each of its groups.

    The blocks' matrices are stepped by `optimizer`, everything else by AdamW, which has the vectors in a group of
    their own.
    """
    matrices = [name for name, shape in shapes.items() if len(shape) == 2 and name.startswith("blocks.")]
    tables = [name for name, shape in shapes.items() if len(shape) == 2 and not name.startswith("blocks.")]
    vectors = [name for name, shape in shapes.items() if len(shape) < 2]
    kind = OPTIMIZERS[optimizer]
    if kind is ADAMW:
        return [(ADAMW, [tables + matrices, vectors])]
    return [(kind, [matrices]), (ADAMW, [tables, vectors])]


def make_optimizers(model: GPT, config: Config, world: World) -> list[torch.optim.Optimizer]:
    """Make the optimizers of `layout`.

    Muon shares its work out over `world`; every worker must step with the same gradients.
    """
    named = dict(model.named_parameters())
    return [
        kind.make([[named[name] for name in group] for group in groups], config, world)
        for kind, groups in layout({name: p.shape for name, p in named.items()}, config.optimizer)
    ]


def set_lr(optimizers: Iterable[torch.optim.Optimizer], lr: float) -> None:
    """Give every group the learning rate `lr`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that are trained, in the same order on every worker."""
    return [p for p in model.parameters() if p.requires_grad]
