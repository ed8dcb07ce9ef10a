"""Batched decoding with a cache: each row starts at the end of its own prompt and stops at its newline."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from popgpt.lines.vocabulary import Vocabulary
from popgpt.model.gpt import GPT, KVCache
from popgpt.tasks.views import Plain, Question, View
from popgpt.text.errors import UserError, shortened

BATCH = 1024
COLDEST = 1e-6  # below it the likeliest character is certain, and logits / temperature would overflow


def complete(
    model: GPT,
    vocabulary: Vocabulary,
    prompts: Sequence[str],
    max_new_tokens: int,
    *,
    origins: Sequence[int] | None = None,
    temperature: float = 0.0,
    draws: NDArray[np.float64] | None = None,
) -> list[str]:
    """Return the completion of each prompt, up to its newline, without it.

    Args:
        prompts: each starts a line, and ends where the model is to go on (with the separator).
        max_new_tokens: characters to write at most, the newline counted.
        origins: the position of each prompt's first character; None: 0.
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
        begins = [0 if origins is None else origins[i] for i in chunk]
        written = _decode(model, ids, begins, vocabulary.newline, max_new_tokens, temperature, chances)
        for i, row in zip(chunk, written, strict=True):
            answers[i] = vocabulary.decode(row).partition("\n")[0]
    return answers


def complete_given(
    model: GPT,
    view: View,
    separator: str,
    prompts: Sequence[str],
    max_new_tokens: int,
    temperature: float,
    random: np.random.Generator,
    work: bool = False,
) -> list[str | UserError]:
    """Return each prompt that a person gave with its answer, or why it has none, which spoils no other.

    work: also what the model read and wrote, after a tab.
    """
    vocabulary = Vocabulary.of(view.alphabet)
    checked = [_check_given(model, view, vocabulary, separator, prompt) for prompt in prompts]
    good = [question for question in checked if isinstance(question, Question)]
    asked, origins = [question.prompt for question in good], [question.origin for question in good]
    if temperature < COLDEST:
        completions = complete(model, vocabulary, asked, max_new_tokens, origins=origins)
    else:
        draws = random.random((len(good), max_new_tokens))
        completions = complete(
            model, vocabulary, asked, max_new_tokens, origins=origins, temperature=temperature, draws=draws
        )
    left = iter(completions)
    return [
        _visible_line(view, separator, prompt, question, next(left), work)
        if isinstance(question, Question)
        else question
        for prompt, question in zip(prompts, checked, strict=True)
    ]


def _visible_line(
    view: View, separator: str, prompt: str, question: Question, written: str, work: bool
) -> str | UserError:
    """Return the line as a person reads it; with `work`, and as the model does."""
    answer, read = view.answer(prompt.removesuffix(separator), written), view.legible(question.prompt + written)
    if answer is None:
        return UserError(f"what the model wrote makes no sense: {shortened(read)}")
    whole = prompt if separator in prompt else prompt + separator
    return f"{whole}{answer}\t{read}" if work else f"{whole}{answer}"


def _check_given(model: GPT, view: View, vocabulary: Vocabulary, separator: str, prompt: str) -> Question | UserError:
    """Return what the model is asked for a prompt, or what is wrong with it.

    A plain line may be given as far as any place after its separator, and the model goes on from there.
    """
    whole = prompt if separator in prompt else prompt + separator
    try:
        if "\n" in prompt or "\r" in prompt:
            raise UserError("should be one line")
        prompt.encode()
        if type(view) is not Plain:
            visible, _, begun = whole.partition(separator)
            if begun:
                raise UserError(f"should end with its {separator!r}: the model does not write answers as they are read")
            return view.ask(visible)
        check_length(model, whole)
        vocabulary.encode(whole)
    except UnicodeEncodeError:
        return UserError("not UTF-8")
    except UserError as error:
        return error
    return Question(whole, 0, view.longest_answer)


def check_length(model: GPT, prompt: str) -> None:
    """Raise UserError for a prompt that has no or too many characters."""
    limit = model.config.block_size
    if not 0 < len(prompt) <= limit:
        raise UserError(f"a prompt should have 1 to block_size={limit} characters, not {len(prompt)}")


@torch.inference_mode()
def _decode(
    model: GPT,
    prompts: Sequence[NDArray[np.int64]],
    origins: Sequence[int],
    newline: int,
    max_new_tokens: int,
    temperature: float,
    draws: Tensor | None,
) -> NDArray[np.int64]:
    """Return [B, up to max_new_tokens], what each row wrote.

    Rows are right-padded while they are read; the padding is overwritten in the cache as each row grows. Padding, and
    what a row writes beyond its line, may come to a position that there is not: they take the last.
    """
    device = model.tokens.weight.device
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    starts, last = torch.tensor(origins, device=device)[:, None], model.config.positions - 1
    B, P = len(prompts), int(lengths.max())
    S = min(model.config.block_size, P + max_new_tokens)
    tokens = torch.full((B, P), newline, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = torch.from_numpy(prompt)
    cache = KVCache.empty(model, B, S)
    slots = torch.arange(S, device=device)

    def read(tokens: Tensor, at: Tensor, used: int) -> Tensor:
        """Logits [B, T, V] of characters in the cache's slots `at` [B, T], all of them among the first `used`."""
        positions = (starts + at).clamp(max=last)
        begun = KVCache(*([part[:, :used] for part in parts] for parts in cache))
        logits: Tensor = model(tokens, positions, mask=_visible(slots[:used], at), cache=begun, slots=at)
        return logits

    logits = read(tokens.to(device), slots[:P].expand(B, P), P)
    logits = logits[torch.arange(B, device=device), lengths - 1]
    done = torch.zeros(B, dtype=torch.bool, device=device)
    written = []
    for step in range(max_new_tokens):
        chosen = _choose(logits, temperature, draws[:, step].to(device) if draws is not None else None)
        chosen = chosen.masked_fill(done, newline)
        written.append(chosen)
        at = lengths + step
        done = done | (chosen == newline) | (at >= S)
        if step + 1 == max_new_tokens or bool(done.all()):
            break
        logits = read(chosen[:, None], at.clamp(max=S - 1)[:, None], min(P + step + 1, S))[:, 0]
    return torch.stack(written, dim=1).cpu().numpy()


def _visible(slots: Tensor, at: Tensor) -> Tensor:
    """Return bool [B, 1, T, S], of slots [S] and [B, T]: which slots are at or before each of `at`."""
    return (slots <= at[:, :, None])[:, None]


def _choose(logits: Tensor, temperature: float, draws: Tensor | None) -> Tensor:
    """Return ids [B] of logits [B, V]: the likeliest, or with draws [B] the one whose share of [0, 1) each hits."""
    if draws is None:
        return logits.argmax(dim=-1)
    shares = torch.softmax(logits.double() / temperature, dim=-1).cumsum(dim=-1)
    return (shares <= draws[:, None]).sum(dim=-1).clamp(max=logits.shape[-1] - 1)
