"""Scores: generated exact match with its interval, teacher-forced loss and token accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from popgpt.config import Config
from popgpt.data.batches import IGNORE_INDEX, Batch, make_rows
from popgpt.data.dataset import Dataset
from popgpt.lines.text import kind_of, split_line
from popgpt.lines.vocabulary import Vocabulary
from popgpt.metrics.metric import METRICS, Sums
from popgpt.model.generation import complete
from popgpt.model.gpt import GPT, line_mask
from popgpt.text.errors import UserError
from popgpt.training.world import World

Z95 = 1.959963984540054


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95% interval of a proportion (Wilson 1927). (0, 1) where nothing was counted."""
    if n == 0:
        return 0.0, 1.0
    p, z2 = successes / n, Z95 * Z95
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def batch_loss(
    model: Callable[..., Tensor], batch: Batch, config: Config, device: torch.device, row_keys: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(sum of the loss over unmasked targets, number of them predicted right), both scalars.

    Nothing is divided here: sums over rows, micro-steps and workers add up, and are divided once.
    """
    tokens, targets, positions = (
        torch.from_numpy(array).to(device, non_blocking=True)
        for array in (batch.tokens, batch.targets, batch.positions)
    )
    mask = line_mask(torch.from_numpy(batch.segments).to(device)) if config.isolate_lines else None
    with torch.autocast(device.type, torch.bfloat16, enabled=config.dtype == "bfloat16"):
        logits = model(tokens, positions, mask, row_keys)
    logits = logits.float().flatten(0, 1)
    targets = targets.flatten()
    loss = F.cross_entropy(logits, targets, ignore_index=IGNORE_INDEX, reduction="sum")
    correct = (logits.detach().argmax(-1) == targets).sum()
    return loss, correct


def answer_lines(
    model: GPT, vocabulary: Vocabulary, separator: str, lines: Sequence[str]
) -> tuple[list[str], list[bool]]:
    """What the model answers to each line's prompt, greedily, and whether it is the line's answer to the character.

    A prompt that block_size cannot hold is answered with nothing, and wrong.
    """
    asked = [prompt + separator for prompt, _ in (split_line(line, separator) for line in lines)]
    room = model.config.block_size
    fits = [i for i, prompt in enumerate(asked) if len(prompt) <= room]
    longest = max((len(line) - len(prompt) for line, prompt in zip(lines, asked, strict=True)), default=0)
    answers, right = [""] * len(lines), [False] * len(lines)
    for i, answer in zip(fits, complete(model, vocabulary, [asked[i] for i in fits], longest + 1), strict=True):
        answers[i], right[i] = answer, asked[i] + answer == lines[i]
    return answers, right


def count_exact(lines: Sequence[str], right: Sequence[bool], separator: str, symbols: str) -> np.ndarray:
    """int64 [1 + len(symbols), 2]: (right, asked) in total and by operation."""
    counts = np.zeros((1 + len(symbols), 2), dtype=np.int64)
    for line, hit in zip(lines, right, strict=True):
        counts[0] += (hit, 1)
        kind = kind_of(split_line(line, separator)[0], symbols)
        if kind:
            counts[1 + symbols.index(kind)] += (hit, 1)
    return counts


def exact_match_metrics(counts: np.ndarray, symbols: str) -> dict[str, Any]:
    """Named scores out of count_exact's counts."""
    right, asked = (int(count) for count in counts[0])
    low, high = wilson(right, asked)
    by_operation = {}
    for symbol, (hits, n) in zip(symbols, counts[1:].tolist(), strict=True):
        if n:
            bounds = wilson(hits, n)
            by_operation[symbol] = {"exact_match": hits / n, "n": n, "low": bounds[0], "high": bounds[1]}
    return {
        "exact_match": right / asked if asked else 0.0,
        "exact_match_n": asked,
        "exact_match_low": low,
        "exact_match_high": high,
        "by_operation": by_operation,
    }


@torch.inference_mode()
def evaluate(model: GPT, dataset: Dataset, split: str, config: Config, world: World) -> dict[str, Any]:
    """Scores on a split, shared between the workers; every worker returns the same.

    Reads at most eval_iters batches of batch_size rows for the loss, and that part of the lines for exact match.
    """
    model.eval()
    rows = make_rows(config, dataset, split, seed=0)
    used = min(rows.rows_per_epoch, config.eval_iters * config.batch_size)
    share = world.share(used)
    loss, correct, targets = 0.0, 0, 0
    for start in range(share.start, share.stop, config.batch_size):
        batch = rows.at(np.arange(start, min(start + config.batch_size, share.stop)))
        batch_sum, batch_correct = batch_loss(model, batch, config, world.device)
        loss += float(batch_sum)
        correct += int(batch_correct)
        targets += int((batch.targets != IGNORE_INDEX).sum())
    meta = dataset.meta
    lines_used = len(dataset.split(split)) * used // rows.rows_per_epoch
    mine = world.share(lines_used)
    lines = dataset.split(split).lines(mine.start, mine.stop)
    _, right = answer_lines(model, meta.vocabulary, meta.separator, lines)
    counts = count_exact(lines, right, meta.separator, meta.symbols)
    loss, correct_sum, targets_sum, *flat = world.sum([loss, correct, targets, *counts.flatten()])
    model.train()
    if not targets_sum:
        raise UserError(f"mask_before_token={config.mask_before_token!r} leaves no character of {split} to learn")
    counts = np.array(flat, dtype=np.int64).reshape(counts.shape)
    sums = Sums(loss, targets_sum, correct_sum, *counts[0].tolist())
    return {
        **{name: metric.measure(sums) for name, metric in METRICS.items()},
        **exact_match_metrics(counts, meta.symbols),
    }


def evaluate_split(model: GPT, dataset: Dataset, split: str) -> dict[str, Any]:
    """Scores on the whole of a split, in this process."""
    rows = make_rows(model.config, dataset, split, seed=0).rows_per_epoch
    whole = model.config.model_copy(update={"eval_iters": rows})
    return evaluate(model, dataset, split, whole, World(model.tokens.weight.device))
