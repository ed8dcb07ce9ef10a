"""Checks what a state holds before anything is made of it; its checksum says only that no byte was altered."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from popgpt.config import Config, make_config
from popgpt.lines.text import NEWLINE
from popgpt.lines.vocabulary import Vocabulary
from popgpt.metrics.row import LATEST, row_problem
from popgpt.model.gpt import shapes
from popgpt.text.errors import UserError, shortened
from popgpt.training.optim import OptimizerKind, layout

State = Mapping[str, Any]


def check_state(state: State, called: str) -> Config:
    """Return the config of a state that holds all that `state.state_dict` puts into it.

    Raises UserError, naming `called` and what is wrong, if something is missing or odd.
    """
    problem = next(_missing(state), None) or next(_odd_values(state), None)
    if problem is None:
        config = make_config(state["config"], f"{called}: its config")
        problem = next(_odd_view(state, config), None) or next(_odd_tensors(state, config), None)
    if problem is not None:
        raise UserError(f"{called}: not the state of a run: {problem}")
    return config


def _missing(state: State) -> Iterator[str]:
    needed = ("config", *VALUES, "scores", "model", "optimizers")
    yield from (f"it lacks {name!r}" for name in needed if name not in state)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < LATEST


def _is_alphabet(value: Any) -> bool:
    return isinstance(value, str) and value == "".join(sorted({*value, NEWLINE}))


VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "vocabulary": (_is_alphabet, "sorted, distinct characters, the newline among them"),
    "separator": (lambda value: isinstance(value, str) and len(value) == 1, "a character"),
    "symbols": (lambda value: isinstance(value, str) and len(set(value)) == len(value), "distinct characters"),
    "longest_answer": (_is_count, "a whole number, at least 0"),
    "fingerprint": (lambda value: isinstance(value, str), "text"),
    **dict.fromkeys(("iteration", "lines", "tokens", "skipped"), (_is_count, "a whole number, at least 0")),
    "train_seconds": (lambda value: _is_finite(value) and value >= 0, "a finite number, at least 0"),
}


def _odd_values(state: State) -> Iterator[str]:
    """Yield what is wrong with everything but config, weights and optimizers."""
    for name, (right, wanted) in VALUES.items():
        if not right(state[name]):
            yield f"{name}={shortened(state[name])} should be {wanted}"
    if state["separator"] not in state["vocabulary"] or state["separator"] == NEWLINE:
        yield f"separator={state['separator']!r} should be one of its vocabulary, and not the newline"
    if state["scores"] is not None and (problem := row_problem(state["scores"])):
        yield f"scores: {problem}"
    for name, kind in (("config", dict), ("model", dict), ("optimizers", list)):
        if not isinstance(state[name], kind):
            yield f"{name}={shortened(state[name])} should be a {kind.__name__}"
    if not all(isinstance(key, str) for key in state["config"]):
        yield "config should have the names of parameters as its keys"


def _odd_view(state: State, config: Config) -> Iterator[str]:
    """Yield what is not as in the view of the state's own config; a plain one follows from what is checked here."""
    view = config.open_view(state["vocabulary"].replace(NEWLINE, ""), state["separator"], state["longest_answer"])
    held = {"vocabulary": Vocabulary.of(view.alphabet).characters, "longest_answer": view.longest_answer}
    for name, value in held.items():
        if state[name] != value:
            yield f"{name}={shortened(state[name])} should be {shortened(value)}, as in view={config.view!r}"


def _odd_tensors(state: State, config: Config) -> Iterator[str]:
    """Yield what is wrong with the weights and the optimizers, by what a model of the state's own config has."""
    weights, expected = state["model"], shapes(config, len(state["vocabulary"]))
    yield from (f"model lacks {name!r}" for name in expected if name not in weights)
    yield from (
        f"model holds {shortened(name)}, which its config's does not" for name in weights if name not in expected
    )
    for name, shape in expected.items():
        yield from _odd_tensor(weights[name], shape, f"model[{name!r}]")
    groups = layout(expected, config.optimizer)
    if len(state["optimizers"]) != len(groups):
        many = f"{len(groups)} with optimizer={config.optimizer!r}"
        yield f"optimizers are {len(state['optimizers'])}, should be {many}"
    stepped = state["iteration"] > state["skipped"]
    for number, (saved, (kind, names)) in enumerate(zip(state["optimizers"], groups, strict=True)):
        sized = [[expected[name] for name in group] for group in names]
        yield from (f"optimizers[{number}]{problem}" for problem in _odd_optimizer(saved, sized, kind, stepped))


def _odd_tensor(value: Any, shape: Sequence[int], called: str) -> Iterator[str]:
    """Yield what is wrong if `value` is no tensor of finite float32 in this shape."""
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        yield f"{called}={shortened(value) if not isinstance(value, Tensor) else value.layout} should be a tensor"
    elif (list(value.shape), value.dtype) != (list(shape), torch.float32):
        yield f"{called} is {value.dtype} {list(value.shape)}, should be torch.float32 {list(shape)}"
    elif not torch.isfinite(value).all():
        yield f"{called} holds what is not finite"


def _odd_optimizer(
    saved: Any, groups: list[list[tuple[int, ...]]], kind: OptimizerKind, stepped: bool
) -> Iterator[str]:
    """Yield what is wrong with what an optimizer is to load.

    Args:
        groups: the shapes of each group's tensors.
        stepped: it has taken a step, so it keeps its moments of every tensor.
    """
    if not isinstance(saved, dict) or not isinstance(saved.get("state"), dict):
        yield " should hold 'state' and 'param_groups'"
        return
    sized = [shape for group in groups for shape in group]
    numbers = iter(range(len(sized)))
    expected = [[next(numbers) for _ in group] for group in groups]
    found = saved.get("param_groups")
    if not isinstance(found, list) or len(found) != len(groups):
        yield f"['param_groups']={shortened(found)} should be {len(groups)} groups"
    for number, (group, tensors) in enumerate(zip(found or (), expected, strict=True)):
        yield from (f"['param_groups'][{number}]{problem}" for problem in _odd_group(group, tensors, kind))
    held = set(saved["state"])
    if not held <= set(range(len(sized))) or (stepped and len(held) < len(sized)):
        yield f"['state'] is of {shortened(sorted(held, key=str))}, should be of 0 to {len(sized) - 1}"
    for number, of in saved["state"].items():
        if not isinstance(of, dict) or set(of) != set(kind.moments):
            yield f"['state'][{number}] should hold {', '.join(kind.moments)}"
            return
        for name in kind.moments:
            yield from _odd_tensor(of[name], () if name == "step" else sized[number], f"['state'][{number}][{name!r}]")


def _odd_group(group: Any, tensors: list[int], kind: OptimizerKind) -> Iterator[str]:
    """Yield what is wrong with a group of an optimizer. Its hyperparameters may have any values, but of their kinds."""
    if not isinstance(group, dict) or group.get("params") != tensors:
        yield f" should be of the tensors {shortened(tensors)}"
        return
    for name in kind.numbers:
        if not _is_finite(group.get(name)):
            yield f"[{name!r}]={shortened(group.get(name))} should be a number"
    for name, value in group.items():
        if name == "betas" and not (
            isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_finite, value))
        ):
            yield f"[{name!r}]={shortened(value)} should be two numbers"
        if name not in (*kind.numbers, "params", "betas") and not (value is None or isinstance(value, bool)):
            yield f"[{shortened(name)}]={shortened(value)} should be true or false"


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
