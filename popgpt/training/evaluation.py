"""Scores of a model on a split or a file: generated exact match, teacher-forced loss and token accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from popgpt.config import Config
from popgpt.data.batches import IGNORE_INDEX, Rows, line_room, make_rows, open_view
from popgpt.data.dataset import Dataset, Split
from popgpt.data.meta import Meta
from popgpt.lines.text import kind_of, split_line
from popgpt.lines.vocabulary import Vocabulary
from popgpt.metrics.metric import METRICS, Sums
from popgpt.model.generation import complete
from popgpt.model.gpt import GPT, line_mask
from popgpt.tasks.views import Question, View
from popgpt.text.errors import UserError
from popgpt.training.checkpoint import open_view_of
from popgpt.training.feed import Inputs, total_weight
from popgpt.training.world import World

Z95 = 1.959963984540054


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Return the 95% interval of a proportion (Wilson 1927), (0, 1) if nothing was counted."""
    if n == 0:
        return 0.0, 1.0
    p, z2 = successes / n, Z95 * Z95
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def batch_loss(model: Callable[..., Tensor], inputs: Inputs, config: Config) -> tuple[Tensor, Tensor]:
    """Return the sum of the loss over unmasked targets, a scalar, and the logits [B * T, V].

    Nothing is divided here: sums over rows, micro-steps and workers add up, and are divided once, by the weights' sum.
    """
    tokens, targets, segments, positions = inputs.ids
    in_bfloat16 = config.dtype == "bfloat16"
    mask = line_mask(segments, torch.bfloat16 if in_bfloat16 else torch.float32) if config.isolate_lines else None
    with torch.autocast(tokens.device.type, torch.bfloat16, enabled=in_bfloat16):
        logits = model(tokens, positions, mask, inputs.row_keys)
    logits, targets = logits.float().flatten(0, 1), targets.flatten().long()
    if inputs.weights is None:
        return F.cross_entropy(logits, targets, ignore_index=IGNORE_INDEX, reduction="sum"), logits
    losses = F.cross_entropy(logits, targets, ignore_index=IGNORE_INDEX, reduction="none")
    return (losses * inputs.weights.flatten()).sum(), logits


def answer_lines(model: GPT, view: View, separator: str, lines: Sequence[str]) -> tuple[list[str | None], list[bool]]:
    """Return the model's greedy answer to each line's prompt, and whether it is the line's answer to the character.

    It is None where the view can't hold the prompt, or what the model wrote makes no sense; that counts as wrong.
    """
    prompts = [split_line(line, separator)[0] for line in lines]
    answers: list[str | None] = [None] * len(lines)
    by_longest: dict[int, dict[int, Question]] = {}
    for number, prompt in enumerate(prompts):
        if question := ask(view, prompt):
            by_longest.setdefault(question.longest, {})[number] = question
    for longest, asked in by_longest.items():  # a short answer need not wait for a long one beside it
        texts, origins = [each.prompt for each in asked.values()], [each.origin for each in asked.values()]
        written = complete(model, Vocabulary.of(view.alphabet), texts, longest + 1, origins=origins)
        for number, text in zip(asked, written, strict=True):
            answers[number] = view.answer(prompts[number], text)
    right = [
        answer is not None and prompt + separator + answer == line
        for prompt, answer, line in zip(prompts, answers, lines, strict=True)
    ]
    return answers, right


def ask(view: View, prompt: str) -> Question | None:
    """Return what a model is asked for a visible prompt; None where the view can't hold it."""
    try:
        return view.ask(prompt)
    except UserError:
        return None


def count_exact(lines: Sequence[str], right: Sequence[bool], separator: str, symbols: str) -> np.ndarray:
    """Return int64 [1 + len(symbols), 2]: right lines and all lines, in total and by operation."""
    counts = np.zeros((1 + len(symbols), 2), dtype=np.int64)
    for line, hit in zip(lines, right, strict=True):
        counts[0] += (hit, 1)
        kind = kind_of(split_line(line, separator)[0], symbols)
        if kind:
            counts[1 + symbols.index(kind)] += (hit, 1)
    return counts


def exact_match_metrics(counts: np.ndarray, symbols: str) -> dict[str, Any]:
    """Return the scores that `count_exact`'s counts make, by name."""
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


class EvaluationSplit(NamedTuple):
    """A worker's share of what an evaluation reads of a split: opened and packed once, read by every evaluation."""

    name: str
    config: Config
    meta: Meta
    view: View
    rows: Rows
    numbers: range  # of this worker's rows
    lines: list[str]  # this worker's


def open_split(config: Config, dataset: Dataset, name: str, world: World, whole: bool = False) -> EvaluationSplit:
    """Open what evaluations read of a split, by default what eval_iters allows.

    That is at most eval_iters batches of batch_size rows for the loss, and the same part of the lines for exact match.
    """
    split = dataset.split(name)
    rows = make_rows(config, dataset, name, seed=0)
    used = rows.rows_per_epoch if whole else min(rows.rows_per_epoch, config.eval_iters * config.batch_size)
    mine = world.share(len(split) * used // rows.rows_per_epoch)
    view, lines = open_view(config, dataset.meta), split.lines(mine.start, mine.stop)
    return EvaluationSplit(name, config, dataset.meta, view, rows, world.share(used), lines)


@torch.inference_mode()
def evaluate(model: GPT, split: EvaluationSplit, world: World) -> dict[str, Any]:
    """Return the scores of a model on a split. Every worker scores its share, and returns the scores of all."""
    model.eval()
    config, meta = split.config, split.meta
    loss, weight, correct, targets = 0.0, 0, 0, 0
    for start in range(split.numbers.start, split.numbers.stop, config.batch_size):
        batch = split.rows.at(np.arange(start, min(start + config.batch_size, split.numbers.stop)))
        weights = split.rows.weights(batch)
        inputs = Inputs.of(batch, weights).to(world.device)
        batch_sum, logits = batch_loss(model, inputs, config)
        weight += total_weight(batch, weights)
        loss += float(batch_sum)
        correct += int((logits.argmax(-1) == inputs.ids[1].flatten()).sum())
        targets += int((batch.targets != IGNORE_INDEX).sum())
    _, right = answer_lines(model, split.view, meta.separator, split.lines)
    counts = count_exact(split.lines, right, meta.separator, meta.symbols)
    loss, weight_sum, correct_sum, targets_sum, *flat = world.sum([loss, weight, correct, targets, *counts.flatten()])
    model.train()
    if not targets_sum:
        raise UserError(f"mask_before_token={config.mask_before_token!r} leaves no character of {split.name} to learn")
    counts = np.array(flat, dtype=np.int64).reshape(counts.shape)
    sums = Sums(loss * (targets_sum / weight_sum), targets_sum, correct_sum, *counts[0].tolist())
    return {
        **{name: metric.measure(sums) for name, metric in METRICS.items()},
        **exact_match_metrics(counts, meta.symbols),
    }


def evaluate_split(model: GPT, dataset: Dataset, split: str) -> dict[str, Any]:
    """Return the scores of a model on the whole of a split, in this process."""
    world = World(model.tokens.weight.device)
    return evaluate(model, open_split(model.config, dataset, split, world, whole=True), world)


def evaluate_lines(model: GPT, state: dict[str, Any], lines: Sequence[str], train: Split) -> dict[str, Any]:
    """Return exact match on given lines: on all, and on those whose prompt the training split does not hold.

    The training split holds a prompt if it holds one of the same canonical form: who has learned 1+2=3 has seen 2+1.
    """
    separator, symbols, view = state["separator"], state["symbols"], open_view_of(state)
    prompts, room = [split_line(line, separator)[0] for line in lines], line_room(model.config)
    _, right = answer_lines(model, view, separator, lines)
    seen = train.contains(prompts, model.config.task)
    unseen = np.flatnonzero(~seen).tolist()
    unseen_counts = count_exact([lines[i] for i in unseen], [right[i] for i in unseen], separator, symbols)
    return {
        **exact_match_metrics(count_exact(lines, right, separator, symbols), symbols),
        "lines_too_long": sum(len(line) > room for line in lines),
        "prompts_not_held": sum(ask(view, prompt) is None for prompt in prompts),
        "seen_in_training": int(np.count_nonzero(seen)),
        "unseen": exact_match_metrics(unseen_counts, symbols),
    }
