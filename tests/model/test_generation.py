from __future__ import annotations

import numpy as np
import pytest
import torch

from popgpt.config import make_config
from popgpt.lines.vocabulary import Vocabulary
from popgpt.model.generation import _choose, complete
from popgpt.model.gpt import GPT
from popgpt.text.errors import UserError

CONFIG = make_config({"d_model": 32, "d_head": 8, "block_size": 12, "seed": 5})
VOCABULARY = Vocabulary("\n+0123456789=")


def model() -> GPT:
    """Random weights, large enough for its choices to differ."""
    gpt = GPT(CONFIG, len(VOCABULARY)).eval()
    with torch.no_grad():
        for parameter in gpt.parameters():
            if parameter.dim() == 2:
                parameter.mul_(12)
    return gpt


def naive(gpt: GPT, prompt: str, most: int) -> str:
    """One character at a time, without a cache."""
    text = prompt
    while len(text) < CONFIG.block_size and len(text) - len(prompt) < most:
        ids = torch.from_numpy(VOCABULARY.encode(text))[None]
        text += VOCABULARY.characters[int(gpt(ids, torch.arange(ids.shape[1])[None])[0, -1].argmax())]
        if text.endswith("\n"):
            break
    if len(text) == CONFIG.block_size and len(text) - len(prompt) < most and not text.endswith("\n"):
        ids = torch.from_numpy(VOCABULARY.encode(text))[None]
        text += VOCABULARY.characters[int(gpt(ids, torch.arange(ids.shape[1])[None])[0, -1].argmax())]
    return text[len(prompt) :].partition("\n")[0]


def test_batched_decoding_gives_what_one_prompt_alone_gives() -> None:
    gpt = model()
    prompts = ["1+2=", "9=", "12345+678=", "0", "7+7=", "55555555555"]
    assert complete(gpt, VOCABULARY, prompts, 6) == [naive(gpt, prompt, 6) for prompt in prompts]
    assert complete(gpt, VOCABULARY, [], 6) == []


def test_rows_that_end_sooner_than_others_of_their_batch_change_nothing() -> None:
    gpt = model()
    with torch.no_grad():
        gpt.head.weight[VOCABULARY.newline] *= -3  # more answers end, at different characters
    prompts = [f"{a}+{b}=" for a in range(10) for b in (1, 4, 8)]
    answers = complete(gpt, VOCABULARY, prompts, 9)
    assert len({len(answer) for answer in answers}) >= 3
    assert answers == [naive(gpt, prompt, 9) for prompt in prompts]
    draws = np.random.default_rng(0).random((30, 9))
    sampled = complete(gpt, VOCABULARY, prompts, 9, temperature=2.0, draws=draws)
    assert len({len(answer) for answer in sampled}) > 3
    for i in range(0, 30, 5):
        alone = complete(gpt, VOCABULARY, prompts[i : i + 1], 9, temperature=2.0, draws=draws[i : i + 1])
        assert alone == sampled[i : i + 1]


def test_sampling_follows_its_draws_and_cold_sampling_is_greedy() -> None:
    gpt, prompts = model(), ["1+2="] * 20

    def drawn(seed: int, temperature: float) -> list[str]:
        draws = np.random.default_rng(seed).random((20, 5))
        return complete(gpt, VOCABULARY, prompts, 5, temperature=temperature, draws=draws)

    assert drawn(0, 2.0) == drawn(0, 2.0) != drawn(1, 2.0)
    assert drawn(0, 1e-6) == complete(gpt, VOCABULARY, prompts, 5)


def test_what_is_sampled_does_not_depend_on_the_prompts_beside_it() -> None:
    gpt, prompts, draws = model(), ["1+2=", "9=", "12345+678=", "0"], np.random.default_rng(0).random((4, 6))
    alone = [
        complete(gpt, VOCABULARY, prompts[i : i + 1], 6, temperature=2.0, draws=draws[i : i + 1])[0] for i in range(4)
    ]
    assert complete(gpt, VOCABULARY, prompts, 6, temperature=2.0, draws=draws) == alone


def test_characters_are_sampled_as_often_as_the_model_says() -> None:
    logits, n = torch.tensor([0.0, 1.0, 2.0, -1.0]), 20_000
    chosen = _choose(logits.expand(n, 4), 0.5, torch.arange(n, dtype=torch.float64) / n)
    shares = torch.bincount(chosen, minlength=4) / n
    torch.testing.assert_close(shares, torch.softmax(logits / 0.5, -1), atol=1e-3, rtol=0)


@pytest.mark.parametrize(("prompt", "said"), [("", "should have 1 to"), ("1" * 13, "should have 1 to"), ("1x", "'x'")])
def test_prompts_that_cannot_be_read_are_refused(prompt: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        complete(model(), VOCABULARY, [prompt], 4)
