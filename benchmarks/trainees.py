"""Models in training that benchmarks compare: popgpt's own, and GPT-2 of transformers on padded lines.

Nothing here needs Ray or MLflow.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from popgpt.config import Config
from popgpt.data.batches import IGNORE_INDEX, make_rows, open_view
from popgpt.data.dataset import Dataset
from popgpt.lines.text import split_line
from popgpt.lines.vocabulary import Vocabulary
from popgpt.model.gpt import GPT, parameter_count
from popgpt.training.evaluation import answer_lines
from popgpt.training.feed import Feed
from popgpt.training.loop import train_step
from popgpt.training.optim import lr_at, make_optimizers, set_lr
from popgpt.training.state import TrainState
from popgpt.training.world import World, pick_device

PLAIN_ADAMW = ["view=plain", "optimizer=adamw"]
WINDOWS = ["align_to_lines=false", "isolate_lines=false", "mask_before_token=null"]
WINDOWS += ["learning_rate=0.001", "min_lr=0.0001", "weight_decay=0.1"]  # as nanoGPT has them
INSTALL = "GPT-2 is left out, as transformers is not installed: pip install -c constraints.txt -e '.[benchmarks]'"


class Trainee(NamedTuple):
    """A model in training.

    step: takes an optimizer step, and returns how many lines it read. right: whether the greedy answer to each line's
    prompt is the line's.
    """

    parameters: int
    step: Callable[[], int]
    right: Callable[[Sequence[str]], list[bool]]


class Started(NamedTuple):
    """popgpt's own training from its first iteration on, as `fit` has it."""

    state: TrainState
    forward: Callable[..., Tensor]
    feed: Feed
    world: World

    @classmethod
    def of(cls, config: Config, dataset: Dataset) -> Started:
        world, rows = World(pick_device(config.device)), make_rows(config, dataset, "train", config.seed)
        model = GPT(config, len(rows.vocabulary)).to(world.device)
        state = TrainState(model, make_optimizers(model, config, world))
        return cls(state, torch.compile(model) if config.compile else model, Feed(rows, config, world), world)

    def step(self, config: Config) -> int:
        """Take a step of training. Returns how many lines it read."""
        before = self.state.lines
        train_step(self.state, self.forward, self.feed, config, self.world, False)
        return self.state.lines - before


def begin_popgpt(config: Config, dataset: Dataset) -> Trainee:
    """Return popgpt's own model and steps."""
    started = Started.of(config, dataset)
    model, view = started.state.model, open_view(config, dataset.meta)

    def right(lines: Sequence[str]) -> list[bool]:
        model.eval()
        _, hits = answer_lines(model, view, dataset.meta.separator, lines)
        model.train()
        return hits

    return Trainee(parameter_count(model), lambda: started.step(config), right)


def begin_gpt2(config: Config, dataset: Dataset) -> Trainee:
    """Return GPT-2 of transformers: a line a row, batch_size rows a step, AdamW as it comes, gradients clipped to 1.

    It computes in bfloat16 as popgpt does, by autocast.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    vocabulary, separator, device = dataset.meta.vocabulary, dataset.meta.separator, pick_device(config.device)
    tokens, targets = (torch.from_numpy(array).to(device) for array in padded_rows(dataset))
    longest = 1 + max(max(dataset.meta.lengths(name)) for name in ("train", "test"))
    torch.manual_seed(config.seed)
    sizes = {"n_layer": config.n_layer, "n_embd": config.d_model, "n_head": config.n_head, "n_positions": longest}
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), config.dropout)
    ends = dict.fromkeys(("bos_token_id", "eos_token_id"), vocabulary.newline)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(vocabulary), **sizes, **dropout, **ends)).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate)
    batches = (batch for _ in count() for batch in torch.randperm(len(tokens), device=device).split(config.batch_size))
    iterations = count()

    def step() -> int:
        chosen = next(batches)
        set_lr([optimizer], lr_at(next(iterations), config))
        with torch.autocast(device.type, torch.bfloat16, enabled=config.dtype == "bfloat16"):
            logits, wanted = model(tokens[chosen, :-1]).logits, targets[chosen, 1:]
        F.cross_entropy(logits.float().flatten(0, 1), wanted.flatten(), ignore_index=IGNORE_INDEX).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return len(chosen)

    def right(lines: Sequence[str]) -> list[bool]:
        model.eval()
        prompts = [split_line(line, separator)[0] + separator for line in lines]
        written = generated(model, vocabulary, prompts, longest)
        model.train()
        return [ours == line for ours, line in zip(written, lines, strict=True)]

    return Trainee(parameter_count(model), step, right)


def generated(model: Any, vocabulary: Vocabulary, prompts: Sequence[str], longest: int) -> list[str]:
    """Return the lines that GPT-2 makes of prompts, greedily. Prompts of one length go together, without padding."""
    lines = [""] * len(prompts)
    for length in set(map(len, prompts)):
        members = [number for number, prompt in enumerate(prompts) if len(prompt) == length]
        asked = torch.from_numpy(np.stack([vocabulary.encode(prompts[number]) for number in members])).to(model.device)
        options = {"do_sample": False, "max_new_tokens": longest - length, "pad_token_id": vocabulary.newline}
        rows = model.generate(asked, attention_mask=torch.ones_like(asked), **options)
        for number, row in zip(members, rows.cpu().numpy(), strict=True):
            lines[number] = vocabulary.decode(row).partition("\n")[0]
    return lines


def padded_rows(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return the training lines, each with its newline, as ids [n, T], and as labels: IGNORE_INDEX but for answers."""
    lines = dataset.split("train").lines()
    ends = np.array([len(line) for line in lines])
    separators = np.array([line.find(dataset.meta.separator) for line in lines])
    place = np.arange(ends.max() + 1)
    held = place <= ends[:, None]
    tokens = np.full(held.shape, dataset.meta.vocabulary.newline, np.int64)
    tokens[held] = dataset.meta.vocabulary.encode("".join(line + "\n" for line in lines))
    return tokens, np.where(held & (place > separators[:, None]), tokens, IGNORE_INDEX)


def spread(values: Sequence[float], digits: int) -> str:
    """Return the median of some values, and their range where they differ."""
    middle, low, high = (f"{value:,.{digits}f}" for value in (median(values), min(values), max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"


def machine() -> str:
    """Cores, processor and how much else is running."""
    cpuinfo = Path("/proc/cpuinfo")
    models = [line.partition(": ")[2] for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
    name = models[0] if models else platform.processor() or platform.machine()
    return f"{len(os.sched_getaffinity(0))} cores of {name}, load {os.getloadavg()[0]:.1f}"
