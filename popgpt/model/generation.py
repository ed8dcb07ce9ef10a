"""Batched decoding with a cache: each row starts at the end of its own prompt and stops at its newline."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from popgpt.config import UserError
from popgpt.data.vocabulary import Vocabulary
from popgpt.model.gpt import GPT, KVCache

BATCH = 1024


def complete(
    model: GPT,
    vocabulary: Vocabulary,
    prompts: Sequence[str],
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> list[str]:
    """The completion of each prompt, up to its newline, without it.

    Args:
        prompts: each starts a line, and ends where the model is to go on (with the separator).
        max_new_tokens: characters to write at most, the newline counted.
        temperature: 0 takes the likeliest character; else characters are sampled at this temperature.
    Raises:
        UserError: a prompt is empty, has a character the model never saw, or fills block_size.
    """
    limit = model.config.block_size
    for prompt in prompts:
        if not 0 < len(prompt) <= limit:
            raise UserError(f"prompt {prompt[:40]!r} should have 1 to block_size={limit} characters")
    answers = [""] * len(prompts)
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(prompts), BATCH):
        chunk = by_length[start : start + BATCH]
        ids = [vocabulary.encode(prompts[i]) for i in chunk]
        written = _decode(model, ids, vocabulary.newline, max_new_tokens, temperature, generator)
        for i, row in zip(chunk, written, strict=True):
            answers[i] = vocabulary.decode(row).partition("\n")[0]
    return answers


@torch.inference_mode()
def _decode(
    model: GPT,
    prompts: Sequence[NDArray[np.int64]],
    newline: int,
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator | None,
) -> NDArray[np.int64]:
    """[B, up to max_new_tokens] what each row wrote.

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
        chosen = _choose(logits, temperature, generator).masked_fill(done, newline)
        written.append(chosen)
        positions = (lengths + step)[:, None]
        done = done | (chosen == newline) | (positions[:, 0] >= S)
        if step + 1 == max_new_tokens or bool(done.all()):
            break
        positions = positions.clamp(max=S - 1)
        logits = model(chosen[:, None], positions, mask=_visible(slots, positions), cache=cache)[:, 0]
    return torch.stack(written, dim=1).cpu().numpy()


def _visible(slots: Tensor, positions: Tensor) -> Tensor:
    """slots [S], positions [B, T] -> bool [B, 1, T, S]: the slots at or before each position."""
    return (slots <= positions[:, :, None])[:, None]


def _choose(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    """logits [B, V] -> ids [B]."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    chances = torch.softmax(logits.float() / temperature, dim=-1)
    return torch.multinomial(chances, 1, generator=generator)[:, 0]
