"""Every parameter is live: changing it changes what it says it changes."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from popgpt.config import Config, flat, merge
from popgpt.data.dataset import dataset_path, ensure_dataset
from popgpt.storage.folder import Folder
from popgpt.tasks.calculator import Calculator
from popgpt.text.errors import UserError
from popgpt.training import checkpoint
from popgpt.training.folder import read_metrics
from popgpt.training.loop import fit
from popgpt.training.world import World, pick_device

Make = Callable[..., Config]
LEARNED = {
    "seed": 2,
    "dtype": "bfloat16",
    "view": "worked",
    "block_size": 48,
    "align_to_lines": False,
    "isolate_lines": False,
    "mask_before_token": None,
    "mask_per_line": False,
    "batch_size": 5,
    "gradient_accumulation_steps": 2,
    "n_layer": 2,
    "d_model": 24,
    "d_head": 4,
    "n_head": 4,
    "dropout": 0.3,
    "bias": True,
    "optimizer": "adamw",
    "learning_rate": 0.02,
    "min_lr": 0.0,
    "lr_decay_iters": 3,
    "warmup_iters": 3,
    "weight_decay": 10.0,
    "beta1": 0.2,
    "beta2": 0.2,
    "grad_clip": 1e-5,
}
GENERATED = {
    "data_seed": 2,
    "train_lines": 401,
    "val_lines": 61,
    "test_lines": 61,
    "task": {"operations": "+"},
    "task.integer_digits": 1,
    "task.decimals": 0,
    "task.result_decimals": 4,
}
NEEDS = {"mask_per_line": {"isolate_lines": False}, "beta1": {"warmup_iters": 0}, "beta2": {"warmup_iters": 0}}
ELSEWHERE = {
    "out_dir": "test_out_dir_is_where_the_run_is",
    "init_from": "test_loop.py: resume, and weights from a checkpoint",
    "device": "test_device",
    "compile": "test_compile",
    "workers": "cluster/test_group.py",
    "min_workers": "cluster/test_faults.py",
    "max_failures": "cluster/test_group.py",
    "worker_timeout": "cluster/test_faults.py",
    "on_nan": "training/test_loop.py",
    "dataset": "test_dataset_and_data_dir_say_where",
    "data_dir": "test_dataset_and_data_dir_say_where",
    "max_iters": "test_intervals",
    "eval_interval": "test_intervals",
    "eval_iters": "test_evaluation.py",
    "log_interval": "test_intervals",
    "best_by": "test_loop.py",
    "always_save_checkpoint": "test_loop.py",
    "experiment": "test_train.py",
    "mlflow_log": "test_train.py",
    "wandb_log": "test_tracking.py",
    "wandb_project": "test_tracking.py",
    "wandb_run_name": "test_train.py",
}


def test_no_parameter_is_forgotten() -> None:
    generated = {name.partition(".")[0] for name in GENERATED}
    assert Config.model_fields.keys() == LEARNED.keys() | generated | ELSEWHERE.keys()
    options = {name.removeprefix("task.") for name in GENERATED if "." in name} | {"name", "operations"}
    assert Calculator.model_fields.keys() == options | OPTIONS_TESTED_WITH_THE_CALCULATOR


OPTIONS_TESTED_WITH_THE_CALCULATOR = {"operation_weights", "signed", "terms", "parentheses", "quotients", "balance"}


def test_the_page_of_parameters_is_written_from_the_schemas() -> None:
    """`make docs` writes it."""
    script = Path(__file__).parent.parent / "docs" / "parameters.py"
    assert runpy.run_path(str(script))["page"]() == script.with_suffix(".md").read_text(encoding="utf-8")


def trained(config: Config) -> tuple[list[float], list[torch.Tensor]]:
    """The losses of a run and its weights."""
    fit(config, ensure_dataset(config), World(torch.device("cpu")))
    out_dir = Folder(config.out_dir)
    latest = checkpoint.load_latest(out_dir)
    assert latest is not None
    return [row["train_loss"] for row in read_metrics(out_dir)], list(latest["model"].values())


@pytest.mark.parametrize("name", LEARNED)
def test_what_a_run_learns_depends_on(name: str, tiny: Make, tmp_path: Path) -> None:
    needs: dict[str, Any] = NEEDS.get(name, {})
    losses, weights = trained(tiny(**needs))
    changed = {**needs, name: LEARNED[name]}
    if name in ("d_head", "n_head"):
        changed["d_model"] = 16
    other_losses, other_weights = trained(tiny(**changed, out_dir=str(tmp_path / "other")))
    same_shapes = [a.shape for a in weights] == [b.shape for b in other_weights]
    equal = same_shapes and all(torch.equal(a, b) for a, b in zip(weights, other_weights, strict=True))
    assert not (equal and losses == other_losses)


@pytest.mark.parametrize("name", GENERATED)
def test_the_dataset_depends_on(name: str, tiny: Make) -> None:
    fixed: dict[str, Any] = {"task": {"operations": "+-/"}, "train_lines": 400}
    first = ensure_dataset(tiny(**fixed, dataset="calculator-base")).meta
    other = ensure_dataset(tiny(**merge(fixed, {name: GENERATED[name]}), dataset=f"calculator-{name}")).meta
    assert first.fingerprint != other.fingerprint
    assert flat({name: GENERATED[name]}).items() <= other.options.items()


def test_dataset_and_data_dir_say_where(tiny: Make, tmp_path: Path) -> None:
    config = tiny(data_dir=str(tmp_path / "there"), dataset="calculator-x")
    ensure_dataset(config)
    assert dataset_path(config) == tmp_path / "there" / "calculator-x"
    assert (tmp_path / "there" / "calculator-x" / "train.arrow").exists()


def test_out_dir_is_where_the_run_is(tiny: Make, tmp_path: Path) -> None:
    trained(tiny(out_dir=str(tmp_path / "a" / "b")))
    assert (tmp_path / "a" / "b" / "result.json").exists()


def test_intervals_say_when_to_log_evaluate_and_end(tiny: Make) -> None:
    config = tiny(max_iters=11, log_interval=3, eval_interval=4)
    trained(config)
    rows = read_metrics(Folder(config.out_dir))
    assert [row["iteration"] for row in rows] == [3, 4, 6, 8, 9, 11]
    assert [row["iteration"] for row in rows if "val_loss" in row] == [4, 8, 11]


def test_device(tiny: Make) -> None:
    assert pick_device("cpu") == torch.device("cpu")
    if torch.cuda.is_available():
        assert pick_device("auto").type == pick_device("cuda").type == "cuda"
    else:
        assert pick_device("auto").type == "cpu"
        with pytest.raises(UserError, match="device='cuda' but this machine has no usable GPU"):
            pick_device("cuda")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compile(tiny: Make, tmp_path: Path) -> None:
    from torch._dynamo.utils import counters

    losses, _ = trained(tiny())
    assert not counters["frames"]
    compiled, _ = trained(tiny(compile=True, out_dir=str(tmp_path / "compiled")))
    assert counters["frames"]["ok"] > 0
    assert compiled == pytest.approx(losses, rel=1e-4)
