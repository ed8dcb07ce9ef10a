from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from popgpt.config import make_config
from popgpt.model.gpt import GPT, RowDropout, line_mask, parameter_count, shapes

CONFIG = make_config({"d_model": 32, "d_head": 8, "n_layer": 2, "block_size": 16, "dropout": 0.0})


def model() -> GPT:
    return GPT(CONFIG, 12).eval()


def test_shapes_and_parameter_count() -> None:
    gpt = model()
    tokens = torch.zeros(3, 7, dtype=torch.long)
    assert gpt(tokens, torch.arange(7).expand(3, 7)).shape == (3, 7, 12)
    d, norms = 32, 5 * 32
    assert parameter_count(gpt) == 2 * 12 * d * d + (12 + 16 + 12) * d + norms


@pytest.mark.parametrize("bias", [False, True])
def test_the_shapes_of_a_model_are_known_without_it(bias: bool) -> None:
    config = make_config({"d_model": 24, "n_head": 3, "n_layer": 3, "block_size": 9, "bias": bias})
    gpt = GPT(config, 11)
    for named in (gpt.state_dict().items(), gpt.named_parameters()):
        assert list(shapes(config, 11).items()) == [(name, tuple(tensor.shape)) for name, tensor in named]


def test_a_position_sees_nothing_after_it() -> None:
    gpt, tokens = model(), torch.arange(8)[None] % 12
    positions = torch.arange(8)[None]
    changed = tokens.clone()
    changed[0, 5] = 11
    before, after = gpt(tokens, positions), gpt(changed, positions)
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.equal(before[:, 5:], after[:, 5:])


def test_isolated_lines_give_what_each_gives_alone() -> None:
    gpt = model()
    first, second = torch.tensor([[1, 2, 3]]), torch.tensor([[4, 5, 6, 7]])
    row = torch.cat([first, second], dim=1)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3]])
    mask = line_mask(torch.tensor([[0, 0, 0, 1, 1, 1, 1]]))
    together = gpt(row, positions, mask)
    alone = torch.cat([gpt(first, positions[:, :3]), gpt(second, positions[:, 3:])], dim=1)
    torch.testing.assert_close(together, alone)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(0, 5), st.integers(0, 2**31))
def test_the_cache_changes_no_logit(prompt: int, more: int, seed: int) -> None:
    gpt = model()
    total = prompt + more
    tokens = torch.randint(12, (2, total), generator=torch.Generator().manual_seed(seed))
    positions = torch.arange(total).expand(2, total)
    whole = gpt(tokens, positions)
    caches = gpt.empty_caches(2, total)
    steps = [slice(0, prompt), *(slice(t, t + 1) for t in range(prompt, total))]
    parts = [gpt(tokens[:, s], positions[:, s], caches=caches) for s in steps]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)


def test_the_seed_makes_the_weights() -> None:
    def weights(seed: int) -> torch.Tensor:
        return GPT(CONFIG.model_copy(update={"seed": seed}), 12).head.weight

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_dropout_keeps_the_rate_the_mean_and_the_rows() -> None:
    drop = RowDropout(0.25, site=3)
    x, keys = torch.ones(64, 32, 16), torch.arange(64, dtype=torch.int32) * 7919
    y = drop(x, keys)
    assert abs((y == 0).float().mean().item() - 0.25) < 0.01
    assert abs(y.mean().item() - 1) < 0.01
    shuffled = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(drop(x, keys[shuffled]), y[shuffled])
    assert torch.equal(drop(x[:5], keys[:5]), y[:5])
    assert not torch.equal(RowDropout(0.25, site=4)(x, keys), y)
    assert torch.equal(drop(x, None), x)


def test_dropout_masks_of_neighbouring_rows_and_sites_are_unrelated() -> None:
    x, keys = torch.ones(256, 16, 16), torch.arange(256, dtype=torch.int32)
    kept = (RowDropout(0.5, site=0)(x, keys) > 0).float().flatten(1) - 0.5
    neighbours = (kept[1:] * kept[:-1]).mean().item() * 4
    other_site = (kept * ((RowDropout(0.5, site=1)(x, keys) > 0).float().flatten(1) - 0.5)).mean().item() * 4
    assert abs(neighbours) < 0.02
    assert abs(other_site) < 0.02
