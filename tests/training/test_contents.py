"""A sealed checkpoint whose content is not a run's is refused in one line by whoever reads one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from popgpt import evaluate, sample, train
from popgpt.storage.folder import Folder
from popgpt.text.errors import UserError
from popgpt.training import checkpoint, contents
from tests.runs import CHARACTERS, some_state

State = dict[str, Any]
Mutation = Callable[[State], Any]
SOUND = {optimizer: some_state(3, optimizer=optimizer) for optimizer in ("muon", "adamw")}
WEIGHT = "head.weight"
NAN = float("nan")


def put(*path: Any, value: Any) -> Mutation:
    """Has the value at a path be another."""

    def mutate(state: State) -> None:
        for key in path[:-1]:
            state = state[key]
        state[path[-1]] = value

    return mutate


def drop(*path: Any) -> Mutation:
    """Has what is at a path be gone."""

    def mutate(state: State) -> None:
        for key in path[:-1]:
            state = state[key]
        del state[path[-1]]

    return mutate


MUTATIONS: dict[str, tuple[Mutation, str]] = {
    **{f"no {name}": (drop(name), f"it lacks {name!r}") for name in SOUND["muon"]},
    "iteration is text": (put("iteration", value="3"), "iteration='3' should be a whole number"),
    "iteration is a float": (put("iteration", value=3.0), "iteration=3.0 should be"),
    "iteration is true": (put("iteration", value=True), "iteration=True should be"),
    "iteration is negative": (put("iteration", value=-1), "iteration=-1 should be"),
    "iteration is huge": (put("iteration", value=10**30), "iteration=1000.*should be"),
    "lines is a list": (put("lines", value=[1]), r"lines=\[1\] should be"),
    "tokens is none": (put("tokens", value=None), "tokens=None should be"),
    "skipped is text": (put("skipped", value="no"), "skipped='no' should be"),
    "train_seconds is nan": (put("train_seconds", value=NAN), "train_seconds=nan should be"),
    "train_seconds is text": (put("train_seconds", value="1"), "train_seconds='1' should be"),
    "an alphabet out of order": (put("vocabulary", value=CHARACTERS[::-1]), "vocabulary=.* should be sorted, distinct"),
    "a character twice": (put("vocabulary", value="\n+0123456789=="), "vocabulary=.* should be sorted, distinct"),
    "an alphabet without a newline": (put("vocabulary", value=CHARACTERS[1:]), "vocabulary=.* should be sorted"),
    "an alphabet as a list": (put("vocabulary", value=list(CHARACTERS)), "vocabulary=.* should be sorted"),
    "a longer alphabet": (put("vocabulary", value=CHARACTERS + "x"), "tokens.weight'] is .*, should be .*\\[14, 8\\]"),
    "a separator of two": (put("separator", value="=="), "separator='==' should be a character"),
    "a strange separator": (put("separator", value=":"), "separator=':' should be one of its vocabulary"),
    "the newline as separator": (put("separator", value="\n"), "separator=.* should be .* not the newline"),
    "symbols twice": (put("symbols", value="++"), "symbols='\\+\\+' should be distinct"),
    "longest_answer is text": (put("longest_answer", value="3"), "longest_answer='3' should be"),
    "fingerprint is bytes": (put("fingerprint", value=b"f"), "fingerprint=b'f' should be text"),
    "scores are a list": (put("scores", value=[1]), "scores: should be an object"),
    "scores of no iteration": (drop("scores", "iteration"), "scores: iteration=None should be"),
    "a score is text": (put("scores", "val_loss", value="low"), "scores: 'val_loss'='low' should be a number"),
    "an operation's score is text": (put("scores", "by_operation", value={"+": "all"}), "scores: by_operation="),
    "config is text": (put("config", value="tiny"), "config='tiny' should be a dict"),
    "config has a number as a key": (put("config", 3, value=4), "config should have the names of parameters"),
    "config has a stranger": (put("config", "colour", value="red"), "unknown parameter colour='red'"),
    "n_layer is text": (put("config", "n_layer", value="one"), "n_layer='one' should be an integer"),
    "n_layer is another": (put("config", "n_layer", value=2), "model lacks 'blocks.1"),
    "n_layer is large": (put("config", "n_layer", value=1024), "model lacks 'blocks.1"),
    "block_size is another": (put("config", "block_size", value=16), "positions.weight'] is .*, should be"),
    "bias is another": (put("config", "bias", value=True), "model lacks "),
    "optimizer is another": (
        put("config", "optimizer", value="adamw"),
        "optimizers are 2, should be 1 with optimizer=",
    ),
    "optimizer is a stranger": (put("config", "optimizer", value="sgd"), "optimizer='sgd' should be"),
    "a negative rate": (put("config", "learning_rate", value=-1.0), "learning_rate=-1.0 should be"),
    "model is a list": (put("model", value=[1]), r"model=\[1\] should be a dict"),
    "a weight is gone": (drop("model", WEIGHT), f"model lacks {WEIGHT!r}"),
    "a layer is gone": (drop("model", "blocks.0.up.weight"), "model lacks 'blocks.0.up.weight'"),
    "a weight too many": (put("model", "extra", value=torch.ones(1)), "model holds 'extra'"),
    "a weight of another shape": (put("model", WEIGHT, value=torch.ones(2, 2)), "should be torch.float32"),
    "a weight of whole numbers": (put("model", WEIGHT, value=torch.ones(13, 8).long()), "is torch.int64"),
    "a weight of half precision": (put("model", WEIGHT, value=torch.ones(13, 8).half()), "is torch.float16"),
    "a weight is a number": (put("model", WEIGHT, value=1.0), "=1.0 should be a tensor"),
    "a weight is sparse": (put("model", WEIGHT, value=torch.ones(13, 8).to_sparse()), "should be a tensor"),
    "a weight is not finite": (put("model", WEIGHT, value=torch.full((13, 8), NAN)), "holds what is not finite"),
    "no embedding": (drop("model", "tokens.weight"), "model lacks 'tokens.weight'"),
    "optimizers are a dict": (put("optimizers", value={}), "optimizers={} should be a list"),
    "no optimizer": (put("optimizers", value=[]), "optimizers are 0, should be 2"),
    "an optimizer is text": (put("optimizers", 0, value="muon"), r"optimizers\[0\] should hold"),
    "no groups": (drop("optimizers", 0, "param_groups"), r"optimizers\[0\]\['param_groups'\]=None should be 1 groups"),
    "a group is gone": (drop("optimizers", 1, "param_groups", 0), r"optimizers\[1\]\['param_groups'\]=.* should be 2"),
    "a group is a list": (put("optimizers", 0, "param_groups", 0, value=[]), "should be of the tensors"),
    "a group of other tensors": (
        put("optimizers", 0, "param_groups", 0, "params", value=[0]),
        "should be of the tensors",
    ),
    "a group without a rate": (drop("optimizers", 0, "param_groups", 0, "lr"), "'lr'\\]=None should be a number"),
    "a rate is text": (
        put("optimizers", 0, "param_groups", 0, "lr", value="high"),
        "'lr'\\]='high' should be a number",
    ),
    "betas are one": (put("optimizers", 1, "param_groups", 0, "betas", value=(0.9,)), "should be two numbers"),
    "amsgrad is a number": (put("optimizers", 1, "param_groups", 0, "amsgrad", value=7), "should be true or false"),
    "no optimizer state": (put("optimizers", 0, "state", value={}), r"\['state'\] is of \[\], should be of 0 to 3"),
    "state of a stranger": (put("optimizers", 0, "state", "x", value={}), r"\['state'\] is of"),
    "a moment is gone": (drop("optimizers", 0, "state", 0, "momentum"), "should hold momentum"),
    "a moment of another shape": (put("optimizers", 0, "state", 0, "momentum", value=torch.ones(3)), "should be torch"),
    "a moment is not finite": (
        put("optimizers", 1, "state", 0, "exp_avg", value=torch.ones(13, 8) * NAN),
        "not finite",
    ),
    "a step is a number": (put("optimizers", 1, "state", 0, "step", value=3), "=3 should be a tensor"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_what_is_not_a_runs_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    mutate, said = MUTATIONS[name]
    state = copy.deepcopy(SOUND["muon"])
    mutate(state)
    (tmp_path / "ckpt.pt").write_bytes(checkpoint.seal(state))
    for read in (lambda: checkpoint.load_best(tmp_path), lambda: checkpoint.load_latest(Folder(tmp_path))):
        with pytest.raises(UserError, match=said) as refused:
            read()
        assert str(refused.value).startswith(f"{tmp_path}/ckpt.pt: ")
        assert "\n" not in str(refused.value)
        assert len(str(refused.value)) < 600


@pytest.mark.parametrize("optimizer", SOUND)
def test_what_is_a_runs_is_taken(optimizer: str) -> None:
    contents.check(SOUND[optimizer], "x")
    contents.check(some_state(0, optimizer=optimizer), "x")
    skipped = some_state(0, optimizer=optimizer) | {"iteration": 2, "skipped": 2}
    contents.check(skipped, "x")


def test_each_command_refuses_it(tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    state = copy.deepcopy(SOUND["muon"])
    state["iteration"] = "many"
    Path("out").mkdir()
    Path("out/ckpt.pt").write_bytes(checkpoint.seal(state))
    values = {"data_dir": str(shared_data), "train_lines": 400, "val_lines": 60, "test_lines": 60}
    values["task"] = {"operations": "+-"}
    Path("c.yaml").write_text("".join(f"{key}: {value}\n" for key, value in values.items()))
    local = ["c.yaml", "--local", "mlflow_log=false"]
    for command in (
        lambda: evaluate.main(["out"]),
        lambda: sample.main(["out", "1+2="]),
        lambda: train.main([*local, "init_from=out", "out_dir=new"]),
        lambda: train.main([*local, "init_from=resume", "out_dir=out"]),
    ):
        with pytest.raises(UserError, match=r"out/ckpt\.pt: not the state of a run: iteration='many' should be"):
            command()


def test_to_check_a_state_makes_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch takes two seconds to get ready for a model without weights, and `sample` need not wait for it."""

    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(torch.nn.Module, "__init__", refuse)
    monkeypatch.setattr(torch.optim.Optimizer, "__init__", refuse)
    contents.check(SOUND["muon"], "x")
