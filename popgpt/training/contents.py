"""What a state holds, checked before anything is made of it: its seal says that no byte was altered, no more."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from popgpt.config import Config, UserError, make_config, shortened
from popgpt.data.lines import NEWLINE
from popgpt.model.gpt import GPT
from popgpt.training.folder import LATEST, row_problem
from popgpt.training.optim import ALONE, MOMENTS, make_optimizers

State = Mapping[str, Any]


def check(state: State, called: str) -> Config:
    """The config of a state, which holds all that `run.capture` gives it. Raises UserError, naming `called` and what is
    wrong.
    """
    problem = next(_missing(state), None) or next(_odd_values(state), None)
    if problem is None:
        config = make_config(state["config"], f"{called}: its config")
        problem = next(_odd_tensors(state, config), None)
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
    "train_seconds": (
        lambda value: type(value) in (int, float) and 0 <= value < math.inf,
        "a finite number, at least 0",
    ),
}


def _odd_values(state: State) -> Iterator[str]:
    """What is wrong with everything but config, weights and optimizers."""
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


def _odd_tensors(state: State, config: Config) -> Iterator[str]:
    """What is wrong with the weights and the optimizers, by what a model of the state's own config has."""
    weights = state["model"]
    for name, shape in (
        ("tokens.weight", [len(state["vocabulary"]), config.d_model]),
        ("positions.weight", [config.block_size, config.d_model]),
    ):
        yield from _odd_tensor(weights.get(name), shape, f"model[{name!r}]")
    if config.n_layer > len(weights):  # else a model is made of as many layers as a text says
        yield f"model holds {len(weights)} tensors, too few for n_layer={config.n_layer}"
    with torch.device("meta"):
        model = GPT(config, len(state["vocabulary"]))
    expected = model.state_dict()
    yield from (f"model lacks {name!r}" for name in expected if name not in weights)
    yield from (
        f"model holds {shortened(name)}, which its config's does not" for name in weights if name not in expected
    )
    for name, tensor in expected.items():
        yield from _odd_tensor(weights[name], list(tensor.shape), f"model[{name!r}]")
    optimizers = make_optimizers(model, config, ALONE)
    if len(state["optimizers"]) != len(optimizers):
        many = f"{len(optimizers)} with optimizer={config.optimizer!r}"
        yield f"optimizers are {len(state['optimizers'])}, should be {many}"
    stepped = state["iteration"] > state["skipped"]
    for number, (saved, optimizer) in enumerate(zip(state["optimizers"], optimizers, strict=True)):
        yield from (f"optimizers[{number}]{problem}" for problem in _odd_optimizer(saved, optimizer, stepped))


def _odd_tensor(value: Any, shape: Sequence[int], called: str) -> Iterator[str]:
    """What is wrong where `value` is no tensor of finite float32 in this shape."""
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        yield f"{called}={shortened(value) if not isinstance(value, Tensor) else value.layout} should be a tensor"
    elif (list(value.shape), value.dtype) != (list(shape), torch.float32):
        yield f"{called} is {value.dtype} {list(value.shape)}, should be torch.float32 {list(shape)}"
    elif not torch.isfinite(value).all():
        yield f"{called} holds what is not finite"


def _odd_optimizer(saved: Any, optimizer: torch.optim.Optimizer, stepped: bool) -> Iterator[str]:
    """What is wrong with what an optimizer is to load. stepped: it has taken a step, so it keeps all moments."""
    expected = optimizer.state_dict()["param_groups"]
    if not isinstance(saved, dict) or not isinstance(saved.get("state"), dict):
        yield " should hold 'state' and 'param_groups'"
        return
    groups = saved.get("param_groups")
    alike = isinstance(groups, list) and len(groups) == len(expected)
    if not alike or not all(map(_is_group_like, groups or (), expected)):
        yield f"['param_groups'] should be like {shortened(expected)}"
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = set(saved["state"])
    if not numbers <= set(range(len(parameters))) or (stepped and len(numbers) < len(parameters)):
        yield f"['state'] is of {shortened(sorted(numbers, key=str))}, should be of 0 to {len(parameters) - 1}"
    moments = MOMENTS[type(optimizer)]
    for number, of in saved["state"].items():
        if not isinstance(of, dict) or set(of) != set(moments):
            yield f"['state'][{number}] should hold {', '.join(moments)}"
            return
        for name in moments:
            shape = [] if name == "step" else list(parameters[number].shape)
            yield from _odd_tensor(of[name], shape, f"['state'][{number}][{name!r}]")


def _is_group_like(saved: Any, expected: Mapping[str, Any]) -> bool:
    """Whether a group has the same tensors, and hyperparameters of the same kinds, whatever their values."""
    if not isinstance(saved, dict) or saved.get("params") != expected["params"]:
        return False
    return all(name in saved and _kind(saved[name]) == _kind(value) for name, value in expected.items())


def _kind(value: Any) -> Any:
    """What a hyperparameter is: a switch, a number, or so many."""
    if value is None or isinstance(value, bool):
        return "switch"
    if isinstance(value, int | float):
        return "number" if math.isfinite(value) else "not finite"
    return [*map(_kind, value)] if isinstance(value, list | tuple) else type(value)
