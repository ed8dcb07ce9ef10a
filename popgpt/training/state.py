"""What training changes: how it starts or resumes, what a checkpoint holds of it, and what result.json says of it."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

import torch

from popgpt.config import Config, may_agree
from popgpt.data.batches import count_left_out, open_view
from popgpt.data.dataset import Dataset
from popgpt.lines.vocabulary import Vocabulary
from popgpt.metrics.metric import score
from popgpt.metrics.row import Row, RunResult
from popgpt.model.gpt import GPT
from popgpt.storage.folder import Folder, absolute
from popgpt.text.errors import UserError
from popgpt.training import checkpoint, folder
from popgpt.training.optim import make_optimizers
from popgpt.training.torch_internals import leave_out_compiler
from popgpt.training.world import World

logger = logging.getLogger(__name__)
MODEL_PARAMETERS = ("n_layer", "d_model", "n_head", "block_size", "view", "positions", "bias")
ROW_PARAMETERS = (
    "seed",
    "rows_per_iteration",
    "align_to_lines",
    "isolate_lines",
    "mask_before_token",
    "mask_per_line",
)
SAVED_FIELDS = ("iteration", "lines", "tokens", "train_seconds", "skipped", "scores")
NOT_IN_RESULT = ("lines", "tokens", "train_seconds", "save_seconds", "save_wait_seconds")


leave_out_compiler()


@dataclass
class TrainState:
    """What training changes."""

    model: GPT
    optimizers: list[torch.optim.Optimizer]
    iteration: int = 0
    lines: int = 0
    tokens: int = 0
    train_seconds: float = 0.0
    skipped: int = 0  # iterations in a row, the last one included
    scores: Row | None = None  # of ckpt.pt
    init_from: str = "scratch"  # what the run's first process started from

    @property
    def is_best(self) -> bool:
        """Whether ckpt.pt is of the last iteration."""
        return self.scores is not None and self.scores["iteration"] == self.iteration


def start_or_resume(config: Config, dataset: Dataset, world: World) -> TrainState:
    """Return the newest state in out_dir; if there is none, a new one that starts as `init_from` says."""
    model = GPT(config, len(vocabulary_of(config, dataset))).to(world.device)
    state = TrainState(model, make_optimizers(model, config, world), init_from=config.init_from)
    saved = checkpoint.load_latest(Folder(config.out_dir))
    if saved:
        load_state_dict(state, saved, config, dataset)
        on = f" on {world.size} workers" if world.size > 1 else ""
        logger.info("going on with the run in %s after iteration %d%s", config.out_dir, state.iteration, on)
    elif initial := load_initial(config, dataset):
        model.load_state_dict(initial["model"])
    if world.is_main:
        folder.write_config(_first_config(config, state))
    return state


def vocabulary_of(config: Config, dataset: Dataset) -> Vocabulary:
    """Return the characters that a run's model reads and writes."""
    return Vocabulary.of(open_view(config, dataset.meta).alphabet)


def load_initial(config: Config, dataset: Dataset | None) -> dict[str, Any] | None:
    """Load the checkpoint whose weights a new run starts from; None if it starts from scratch.

    Args:
        dataset: None if it does not exist yet: the alphabets are then not compared.
    Raises:
        UserError: there is no run to resume, or init_from names no checkpoint of such a model.
    """
    if config.init_from == "scratch":
        return None
    if config.init_from == "resume":
        raise UserError(f"out_dir={config.out_dir} holds no run to resume; start one with init_from=scratch")
    saved = checkpoint.load_best(config.init_from)
    _check_same(saved, config, dataset, MODEL_PARAMETERS)
    return saved


def check_checkpoint(config: Config, dataset: Dataset | None) -> None:
    """Raise UserError if `start_or_resume` can't start from the checkpoint that init_from names.

    It writes nothing, so that the driver can ask before it starts anything.

    Args:
        dataset: None if it does not exist yet; it is then not checked.
    """
    run_folder = Folder(config.out_dir)
    newest = folder.last_state(run_folder)
    if newest is None:
        load_initial(config, dataset)
    elif config.init_from == "resume":  # without it, all parameters are the run's own
        try:
            saved = checkpoint.load(run_folder, newest)
        except UserError:
            return  # torn: the run resumes from an older one
        _check_can_resume(saved, config, dataset)


def state_dict(state: TrainState, config: Config, dataset: Dataset) -> dict[str, Any]:
    """Return what a checkpoint holds: everything a run resumes from. Its tensors are the run's own."""
    meta, view = dataset.meta, open_view(config, dataset.meta)
    return {
        "config": _first_config(config, state).model_dump(),
        "vocabulary": Vocabulary.of(view.alphabet).characters,
        "separator": meta.separator,
        "symbols": meta.symbols,
        "longest_answer": view.longest_answer,
        "fingerprint": meta.fingerprint,
        "model": state.model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in state.optimizers],
        **{name: getattr(state, name) for name in SAVED_FIELDS},
    }


def load_state_dict(state: TrainState, saved: dict[str, Any], config: Config, dataset: Dataset) -> None:
    """Make `state` what it was when `saved` was saved. Raises UserError if the run can't resume from it."""
    _check_can_resume(saved, config, dataset)
    state.model.load_state_dict(saved["model"])
    for optimizer, its in zip(state.optimizers, saved["optimizers"], strict=True):
        optimizer.load_state_dict(its)
    state.init_from = checkpoint.config_of(saved).init_from
    for name in SAVED_FIELDS:
        setattr(state, name, saved[name])


def update_best(state: TrainState, evaluated: Row, config: Config) -> bool:
    """Return whether ckpt.pt becomes that of this evaluation: it is the best so far, or always_save_checkpoint."""
    is_better = (
        config.always_save_checkpoint
        or state.scores is None
        or score(evaluated, config.best_by) > score(state.scores, config.best_by)
    )
    if is_better:
        state.scores = evaluated
    return is_better


def summarize(state: TrainState, config: Config, dataset: Dataset, world: World, started: float) -> RunResult:
    """Return what result.json holds: the validation scores of ckpt.pt, and what the run cost.

    It is written with each state; its status is `interrupted` as long as max_iters is not reached.
    """
    scores = result_scores(state.scores or {})
    return {
        "status": "completed" if state.iteration >= config.max_iters else "interrupted",
        **({"split": "val"} if scores else {}),
        **scores,
        "last_iteration": state.iteration,
        "train_seconds": state.train_seconds,
        "wall_seconds": time.perf_counter() - started,
        "lines": state.lines,
        "tokens": state.tokens,
        "lines_per_second": state.lines / state.train_seconds if state.train_seconds else 0.0,
        "world_size": world.size,
        "threads": torch.get_num_threads(),
        "device": str(world.device),
        "dataset_fingerprint": dataset.meta.fingerprint,
        "lines_left_out": count_left_out(config, dataset.meta),
        "checkpoint": absolute(Folder(config.out_dir).at(folder.BEST)) if scores else None,
    }


def result_scores(row: Row) -> Row:
    """Return the part of an evaluation's row that result.json holds."""
    return {key: value for key, value in row.items() if key not in NOT_IN_RESULT}


def _first_config(config: Config, state: TrainState) -> Config:
    """Return the config that repeats the run from where its first process started."""
    return config.model_copy(update={"init_from": state.init_from})


def _check_can_resume(saved: dict[str, Any], config: Config, dataset: Dataset | None) -> None:
    """Raise UserError if a run of this config and dataset can't resume from a checkpoint."""
    _check_same(saved, config, dataset, (*MODEL_PARAMETERS, *ROW_PARAMETERS, "optimizer"))
    if config.max_iters < saved["iteration"]:
        raise UserError(f"max_iters={config.max_iters} should be at least {saved['iteration']}, where the run is")
    if dataset and saved["fingerprint"] != dataset.meta.fingerprint:
        raise UserError(
            f"out_dir={config.out_dir} was trained on another dataset than {config.dataset}; start a new run"
        )


def _check_same(saved: dict[str, Any], config: Config, dataset: Dataset | None, names: tuple[str, ...]) -> None:
    """Raise UserError if a checkpoint was trained with other values of these parameters, or on another alphabet."""
    trained = checkpoint.config_of(saved)
    for name in names:
        theirs, ours = getattr(trained, name), getattr(config, name)
        if not may_agree(name, theirs, ours):
            raise UserError(f"{name}={ours!r} should be {theirs!r}, as in the checkpoint")
    if dataset and saved["vocabulary"] != vocabulary_of(config, dataset).characters:
        raise UserError(f"the checkpoint's alphabet {saved['vocabulary']!r} is not that of dataset={config.dataset}")
