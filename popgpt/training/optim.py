"""The learning rate at an iteration, and the optimizers of a model's parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from popgpt.config import Config
from popgpt.model.gpt import GPT

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


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

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        assert parameter.grad is not None
        momentum = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
        direction = orthogonalize(parameter.grad.lerp(momentum, group["momentum"]))
        scale = 0.2 * math.sqrt(max(parameter.shape))
        parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-group["lr"] * scale)


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


def make_optimizers(model: GPT, config: Config) -> list[torch.optim.Optimizer]:
    """The blocks' matrices under `optimizer`, everything else under AdamW; vectors do not decay."""
    matrices = [p for p in model.blocks.parameters() if p.dim() == 2]
    inside = {id(p) for p in matrices}
    tables = [p for p in model.parameters() if p.dim() == 2 and id(p) not in inside]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    muon = config.optimizer == "muon"
    groups = [
        {"params": tables if muon else tables + matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)
    if not muon:
        return [adamw]
    return [Muon(matrices, config.learning_rate, weight_decay=config.weight_decay), adamw]


def set_lr(optimizers: Iterable[torch.optim.Optimizer], lr: float) -> None:
    """Give every group the learning rate `lr`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Parameters in a fixed order, the same on every worker."""
    return [p for p in model.parameters() if p.requires_grad]
