"""Batched decoding with a cache: each row starts at the end of its own prompt and stops at its newline."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from popgpt.lines.vocabulary import Vocabulary
from popgpt.model.gpt import GPT, KVCache
from popgpt.text.errors import UserError

BATCH = 1024
COLDEST = 1e-6  # below it the likeliest character is certain, and logits / temperature would overflow


def complete(
    model: GPT,
    vocabulary: Vocabulary,
    prompts: Sequence[str],
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    draws: NDArray[np.float64] | None = None,
) -> list[str]:
    """Return the completion of each prompt, up to its newline, without it.

    Args:
        prompts: each starts a line, and ends where the model is to go on (with the separator).
        max_new_tokens: characters to write at most, the newline counted.
        temperature: 0 takes the likeliest character; else characters are sampled at this temperature.
        draws: [len(prompts), max_new_tokens] uniform random numbers in [0, 1), which decide what is sampled: a
            prompt's answer does not depend on the prompts beside it. Without them the likeliest is taken.
    Raises:
        UserError: a prompt is empty, has a character the model never saw, or is longer than block_size.
    """
    for prompt in prompts:
        check_length(model, prompt)
    answers = [""] * len(prompts)
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(prompts), BATCH):
        chunk = by_length[start : start + BATCH]
        ids = [vocabulary.encode(prompts[i]) for i in chunk]
        chances = None if temperature == 0 or draws is None else torch.from_numpy(draws[chunk])
        written = _decode(model, ids, vocabulary.newline, max_new_tokens, temperature, chances)
        for i, row in zip(chunk, written, strict=True):
            answers[i] = vocabulary.decode(row).partition("\n")[0]
    return answers


def complete_given(
    model: GPT,
    vocabulary: Vocabulary,
    separator: str,
    prompts: Sequence[str],
    max_new_tokens: int,
    temperature: float,
    random: np.random.Generator,
) -> list[str | UserError]:
    """Return each prompt that a person gave with its completion, or why it has none, which spoils no other."""
    checked = [_check_given(model, vocabulary, separator, prompt) for prompt in prompts]
    good = [prompt for prompt in checked if isinstance(prompt, str)]
    if temperature < COLDEST:
        completions = complete(model, vocabulary, good, max_new_tokens)
    else:
        draws = random.random((len(good), max_new_tokens))
        completions = complete(model, vocabulary, good, max_new_tokens, temperature=temperature, draws=draws)
    left = iter(completions)
    return [prompt + next(left) if isinstance(prompt, str) else prompt for prompt in checked]


def _check_given(model: GPT, vocabulary: Vocabulary, separator: str, prompt: str) -> str | UserError:
    """Return the prompt with its separator, or what is wrong with it."""
    whole = prompt if separator in prompt else prompt + separator
    try:
        if "\n" in prompt or "\r" in prompt:
            raise UserError("should be one line")
        prompt.encode()
        check_length(model, whole)
        vocabulary.encode(whole)
    except UnicodeEncodeError:
        return UserError("not UTF-8")
    except UserError as error:
        return error
    return whole


def check_length(model: GPT, prompt: str) -> None:
    """Raise UserError for a prompt that has no or too many characters."""
    limit = model.config.block_size
    if not 0 < len(prompt) <= limit:
        raise UserError(f"a prompt should have 1 to block_size={limit} characters, not {len(prompt)}")


@torch.inference_mode()
def _decode(
    model: GPT,
    prompts: Sequence[NDArray[np.int64]],
    newline: int,
    max_new_tokens: int,
    temperature: float,
    draws: Tensor | None,
) -> NDArray[np.int64]:
    """Return [B, up to max_new_tokens], what each row wrote.

    Rows are right-padded while they are read; the padding is overwritten in the cache as each row grows.
    """
    device = model.tokens.weight.device
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    B, P = len(prompts), int(lengths.max())
    S = min(model.config.block_size, P + max_new_tokens)
    tokens = torch.full((B, P), newline, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = torch.from_numpy(prompt)
    cache = KVCache.empty(model, B, S)
    slots = torch.arange(S, device=device)
    positions = slots[:P].expand(B, P)
    logits = model(tokens.to(device), positions, mask=_visible(slots, positions), cache=cache)
    logits = logits[torch.arange(B, device=device), lengths - 1]
    done = torch.zeros(B, dtype=torch.bool, device=device)
    written = []
    for step in range(max_new_tokens):
        chosen = _choose(logits, temperature, draws[:, step].to(device) if draws is not None else None)
        chosen = chosen.masked_fill(done, newline)
        written.append(chosen)
        positions = (lengths + step)[:, None]
        done = done | (chosen == newline) | (positions[:, 0] >= S)
        if step + 1 == max_new_tokens or bool(done.all()):
            break
        positions = positions.clamp(max=S - 1)
        logits = model(chosen[:, None], positions, mask=_visible(slots, positions), cache=cache)[:, 0]
    return torch.stack(written, dim=1).cpu().numpy()


def _visible(slots: Tensor, positions: Tensor) -> Tensor:
    """Return bool [B, 1, T, S], of slots [S] and positions [B, T]: which slots are at or before each position."""
    return (slots <= positions[:, :, None])[:, None]


def _choose(logits: Tensor, temperature: float, draws: Tensor | None) -> Tensor:
    """Return ids [B] of logits [B, V]: the likeliest, or with draws [B] the one whose share of [0, 1) each hits."""
    if draws is None:
        return logits.argmax(dim=-1)
    shares = torch.softmax(logits.double() / temperature, dim=-1).cumsum(dim=-1)
    return (shares <= draws[:, None]).sum(dim=-1).clamp(max=logits.shape[-1] - 1)
