from __future__ import annotations

import pytest
import torch

from popgpt.config import make_config
from popgpt.model.gpt import GPT
from popgpt.training.optim import ALONE, NEWTON_SCHULZ, Muon, lr_at, make_optimizers, orthogonalize


def test_learning_rate_warms_up_then_follows_a_cosine_then_stays() -> None:
    config = make_config(
        {"learning_rate": 1.0, "min_lr": 0.2, "warmup_iters": 4, "lr_decay_iters": 12, "max_iters": 20}
    )
    rates = [round(lr_at(i, config), 6) for i in (0, 1, 3, 4, 8, 12, 19)]
    assert rates == [0.25, 0.5, 1.0, 1.0, 0.6, 0.2, 0.2]


def test_learning_rate_without_warm_up_starts_at_its_peak() -> None:
    config = make_config({"learning_rate": 1.0, "warmup_iters": 0, "max_iters": 10})
    assert lr_at(0, config) == 1.0


@pytest.mark.parametrize("shape", [(8, 8), (8, 24), (24, 8)])
def test_orthogonalized_matrices_have_singular_values_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalize(matrix[None])[0])
    assert bool(((values > 0.6) & (values < 1.3)).all())


@pytest.mark.parametrize("shape", [(2, 64, 64), (3, 32, 96), (1, 96, 32)])
def test_the_steps_on_the_small_square_are_newton_schulz(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    a, b, c = NEWTON_SCHULZ
    for matrix, found in zip(matrices, orthogonalize(matrices), strict=True):
        x = matrix.double() / matrix.double().norm()
        for _ in range(5):
            gram = x @ x.T
            x = (a * torch.eye(len(x)) + b * gram + c * gram @ gram) @ x
        assert ((found - x).norm() / x.norm()).item() < 1e-4


def test_muon_takes_the_blocks_matrices_and_adamw_the_rest() -> None:
    config = make_config({"d_model": 16, "d_head": 8, "bias": True})
    model = GPT(config, 10)
    muon, adamw = make_optimizers(model, config, ALONE)
    in_muon = {id(p) for group in muon.param_groups for p in group["params"]}
    in_adamw = [id(p) for group in adamw.param_groups for p in group["params"]]
    assert isinstance(muon, Muon)
    assert in_muon == {id(p) for p in model.blocks.parameters() if p.dim() == 2}
    assert in_muon.isdisjoint(in_adamw)
    assert len(in_muon) + len(in_adamw) == len(list(model.parameters()))


def test_only_matrices_decay() -> None:
    config = make_config({"d_model": 16, "d_head": 8, "bias": True, "optimizer": "adamw", "weight_decay": 0.1})
    (adamw,) = make_optimizers(GPT(config, 10), config, ALONE)
    decays = {p.dim(): group["weight_decay"] for group in adamw.param_groups for p in group["params"]}
    assert decays == {2: 0.1, 1: 0.0}


def test_a_muon_step_has_adamws_size() -> None:
    weight = torch.nn.Parameter(torch.zeros(64, 256))
    weight.grad = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    Muon([weight], lr=1.0).step()
    assert weight.detach().square().mean().sqrt().item() == pytest.approx(0.2, rel=0.15)
