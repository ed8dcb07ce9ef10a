"""Batched decoding with a cache: each row starts at the end of its own prompt and stops at its newline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from popgpt.lines.vocabulary import Vocabulary
from popgpt.model.gpt import GPT
from popgpt.tasks.views import Plain, Question, View
from popgpt.text.errors import UserError, shortened

BATCH = 512  # prompts read at once
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
    for chunk in _chunks_of_one_length(prompts):
        ids = torch.from_numpy(np.stack([vocabulary.encode(prompts[i]) for i in chunk]))
        chances = None if temperature == 0 or draws is None else torch.from_numpy(draws[chunk])
        begins = torch.tensor([0 if origins is None else origins[i] for i in chunk])
        written = _decode(model, ids, begins, vocabulary.newline, max_new_tokens, temperature, chances)
        for i, row in zip(chunk, written, strict=True):
            answers[i] = vocabulary.decode(row).partition("\n")[0]
    return answers


def _chunks_of_one_length(prompts: Sequence[str]) -> Iterator[list[int]]:
    """Yield the numbers of all prompts, up to BATCH at a time, whose prompts have one length."""
    by_length: dict[int, list[int]] = {}
    for number, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(number)
    for numbers in by_length.values():
        for start in range(0, len(numbers), BATCH):
            yield numbers[start : start + BATCH]


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
    prompts: Tensor,
    origins: Tensor,
    newline: int,
    max_new_tokens: int,
    temperature: float,
    draws: Tensor | None,
) -> NDArray[np.int64]:
    """Return [B, up to max_new_tokens], what each row of prompts [B, P] wrote, filled up with newlines.

    A row that has written its newline, and one that is block_size long, is read no more. What is written beyond a line
    may come to a position that there is not: it takes the last.
    """
    device, (B, P) = model.tokens.weight.device, prompts.shape
    most = min(max_new_tokens, model.config.block_size - P + 1)  # the last is not read
    positions = (origins[:, None] + torch.arange(P + most)).clamp(max=model.config.positions - 1).to(device)
    written, writing = torch.full((B, most), newline, device=device), torch.arange(B, device=device)
    caches = model.empty_caches(B, P + most)
    logits = model(prompts.to(device), positions[:, :P], caches=caches)[:, -1]
    for step in range(most):
        chosen = _choose(logits, temperature, None if draws is None else draws.to(device)[writing, step])
        written[writing, step] = chosen
        going = chosen != newline
        if step + 1 == most or not going.any():
            break
        if not going.all():
            writing, chosen = writing[going], chosen[going]
            for cache in caches:
                cache.keep(going)
        logits = model(chosen[:, None], positions[writing, P + step : P + step + 1], caches=caches)[:, 0]
    return written.cpu().numpy()


def _choose(logits: Tensor, temperature: float, draws: Tensor | None) -> Tensor:
    """Return ids [B] of logits [B, V]: the likeliest, or with draws [B] the one whose share of [0, 1) each hits."""
    if draws is None:
        return logits.argmax(dim=-1)
    shares = torch.softmax(logits.double() / temperature, dim=-1).cumsum(dim=-1)
    return (shares <= draws[:, None]).sum(dim=-1).clamp(max=logits.shape[-1] - 1)
