"""Every parameter of a run, once: its type, default, bounds and meaning. There is no other schema."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, model_validator

from popgpt.config.derived import with_derived
from popgpt.config.roles import Role, role_of
from popgpt.config.types import FASTEST, LONGEST, MOST, Count, Probability, RowCount, Seed, Width, Workers
from popgpt.metrics.metric import MetricName
from popgpt.tasks.base import Task
from popgpt.tasks.registry import DEFAULT_TASK, make_task
from popgpt.text.errors import UserError, shortened

if TYPE_CHECKING:
    from popgpt.tasks.views import View

SEPARATOR = "separator"


def _check_mask(value: str) -> str:
    if value != SEPARATOR and len(value) != 1:
        raise ValueError(f"mask_before_token={shortened(value)} should be {SEPARATOR}, one character, or null")
    return value


Mask = Annotated[str, AfterValidator(_check_mask)]


class RunOptions(BaseModel):
    """Where a run begins, takes place, and how it computes."""

    out_dir: Annotated[str, Role.PLACE] = Field(
        "out", min_length=1, description="folder of the run, by path or URI (s3://bucket/run)"
    )
    init_from: Annotated[str, Role.RUN] = Field(
        "scratch", min_length=1, description="scratch | resume (from out_dir) | the path or URI of a checkpoint"
    )
    seed: Seed = Field(1337, description="of the weights, the order of the data and dropout")
    device: Annotated[Literal["auto", "cpu", "cuda"], Role.PLACE] = Field(
        "auto", description="auto: cuda where there is one, else cpu"
    )
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of the matrix products; weights are float32")
    compile: bool = Field(False, description="torch.compile the model")
    workers: Annotated[Workers, Role.PLACE] = Field(1, description="processes that share the rows of each iteration")
    min_workers: Annotated[Workers | None, Role.PLACE] = Field(
        None, description="go on with as few where some are lost (--workers MIN:MAX); null: with all or not at all"
    )
    max_failures: Annotated[int, Field(ge=-1, le=MOST), Role.PLACE] = Field(
        10, description="restarts after a worker or its node was lost, at most; -1: any number"
    )
    worker_timeout: Annotated[float, Field(gt=0, le=MOST), Role.PLACE] = Field(
        600.0, description="seconds without an iteration after which workers are restarted as hung"
    )


class DataOptions(BaseModel):
    """What is learned, and where its dataset is."""

    task: Annotated[SerializeAsAny[Task], BeforeValidator(make_task), Role.DATA] = Field(  # type: ignore[assignment]
        DEFAULT_TASK, description="what is learned: a task's name, or {name: ..., option: ...}"
    )
    dataset: Annotated[str, Role.RUN] = Field(
        DEFAULT_TASK, pattern=r"^[\w.-]+$", description="name of the dataset inside data_dir; default the task's name"
    )
    data_dir: Annotated[str, Role.PLACE] = Field("data", min_length=1, description="folder that holds the datasets")
    data_seed: Annotated[Seed, Role.DATA] = Field(1, description="of the generator and of the split")
    train_lines: Annotated[Count, Role.DATA] = Field(200_000, description="lines to generate for training")
    val_lines: Annotated[Count, Role.DATA] = Field(2_000, description="lines to generate for validation")
    test_lines: Annotated[Count, Role.DATA] = Field(2_000, description="lines to generate for the final test")


class RowOptions(BaseModel):
    """What a row of a batch holds, and what is learned of it."""

    view: str = Field(
        "plain",
        min_length=1,
        description="lines as a model reads them: plain, as they are; reversed, their answers backwards; "
        "worked, the calculator's steps written out",
    )
    block_size: Annotated[int, Field(ge=2, le=LONGEST)] = Field(64, description="positions of a row, T")
    align_to_lines: bool = Field(True, description="rows hold complete lines only; false: contiguous windows")
    isolate_lines: bool = Field(True, description="a line sees only itself; false: also the earlier lines of its row")
    mask_before_token: Mask | None = Field(
        SEPARATOR, description="no loss on targets up to and including it, the dataset's separator; null: loss on all"
    )
    mask_per_line: bool = Field(True, description="mask anew after each newline; false: once a row")


class BatchOptions(BaseModel):
    """How many rows an iteration takes."""

    batch_size: RowCount = Field(128, description="rows of a micro-step")
    gradient_accumulation_steps: RowCount = Field(1, description="micro-steps of an iteration, over all workers")


class ModelOptions(BaseModel):
    """The transformer."""

    n_layer: Annotated[int, Field(gt=0, le=1024)] = Field(2, description="transformer blocks")
    d_model: Width = Field(128, description="width, D (alias n_embd)")
    d_head: Width = Field(32, description="width of a head; d_model / n_head")
    n_head: Width = Field(4, description="heads, H; d_model / d_head")
    dropout: Probability = Field(0.0, description="on the embeddings and on what each block adds")
    bias: bool = Field(False, description="biases in linear layers and norms")


class OptimizerOptions(BaseModel):
    """The steps of training."""

    optimizer: Literal["muon", "adamw"] = Field(
        "muon", description="muon: for the blocks' matrices, AdamW for the rest"
    )
    learning_rate: Annotated[float, Field(gt=0, le=FASTEST)] = Field(3e-3, description="peak learning rate")
    min_lr: Annotated[float, Field(ge=0)] = Field(
        3e-4, description="learning rate at the end; default learning_rate/10"
    )
    warmup_iters: Annotated[int, Field(ge=0, le=MOST)] = Field(50, description="iterations of linear warm-up")
    lr_decay_iters: Count = Field(1000, description="iteration at which min_lr is reached; default max_iters")
    max_iters: Count = Field(1000, description="iterations of the run")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="decoupled, on matrices only")
    beta1: Probability = Field(0.9, description="AdamW's first moment; Muon's momentum is fixed at 0.95")
    beta2: Probability = Field(0.99, description="AdamW's second moment")
    grad_clip: Annotated[float, Field(ge=0)] = Field(1.0, description="largest norm of the gradient; 0: no clipping")
    on_nan: Literal["stop", "skip"] = Field(
        "stop",
        description="at a loss or gradient that is not finite: end the run, or skip that iteration",
    )


class EvaluationOptions(BaseModel):
    """When a run is evaluated and logged, and by what evaluations are compared."""

    eval_interval: Count = Field(100, description="iterations between evaluations; the last is always evaluated")
    eval_iters: Count = Field(200, description="batches of batch_size validation rows an evaluation reads at most")
    log_interval: Count = Field(10, description="iterations between logged losses")
    best_by: Annotated[MetricName, Role.RUN] = Field(
        "exact_match", description="what makes one evaluation better than another; token accuracy decides ties"
    )
    always_save_checkpoint: Annotated[bool, Role.RUN] = Field(
        False, description="ckpt.pt at every evaluation; false: only when it is the best"
    )


class TrackingOptions(BaseModel):
    """What is recorded in MLflow and Weights & Biases."""

    experiment: Annotated[str | None, Role.PLACE] = Field(
        None, min_length=1, description="MLflow experiment; default the dataset's name"
    )
    mlflow_log: Annotated[bool, Role.PLACE] = Field(True, description="record the run in MLflow")
    wandb_log: Annotated[bool, Role.PLACE] = Field(False, description="record the run in Weights & Biases")
    wandb_project: Annotated[str, Role.PLACE] = Field("popgpt", min_length=1, description="project in Weights & Biases")
    wandb_run_name: Annotated[str | None, Role.PLACE] = Field(
        None, min_length=1, description="name of the run, in MLflow too; default out_dir's"
    )


class Config(
    TrackingOptions,
    EvaluationOptions,
    OptimizerOptions,
    ModelOptions,
    BatchOptions,
    RowOptions,
    DataOptions,
    RunOptions,  # the last base's fields come first
):
    """A run, validated and with every derived value filled in. Immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _derive(cls, given: Any) -> Any:
        return with_derived(given, DEFAULTS) if isinstance(given, Mapping) else given

    @model_validator(mode="after")
    def _agree(self) -> Config:
        problem = _disagreement(self)
        if problem:
            raise ValueError(problem)
        return self

    @property
    def rows_per_iteration(self) -> int:
        """Rows of one optimizer step, over all workers: the effective batch."""
        return self.batch_size * self.gradient_accumulation_steps

    @property
    def positions(self) -> int:
        """How many positions the model tells apart: those of a row, or of a view that has its own."""
        return self.open_view("", self.task.separator).positions

    def open_view(self, alphabet: str, separator: str, longest_answer: int | None = None) -> View:
        """The run's view of lines of this alphabet and separator, their answers at most so long. Raises UserError."""
        from popgpt.tasks.views import Plain

        return self.task.view(self.view, Plain(alphabet, separator, self.block_size, longest_answer))


GROUPS = Config.__bases__[::-1]
DEFAULTS = {name: field.default for name, field in Config.model_fields.items()}


def parameters_of(role: Role) -> tuple[str, ...]:
    """Return the parameters that have a role, in the schema's order."""
    return tuple(name for name, field in Config.model_fields.items() if role_of(field) is role)


def derived(given: Mapping[str, Any]) -> dict[str, Any]:
    """What is given and what follows from it. Raises UserError where nothing can."""
    try:
        return {**DEFAULTS, **with_derived(given, DEFAULTS)}
    except ValueError as error:
        raise UserError(str(error)) from None


def _disagreement(config: Config) -> str | None:
    """The first combination of parameters that cannot be, in words."""
    c = config
    if c.n_head * c.d_head != c.d_model:
        return (
            f"d_head={c.d_head} and n_head={c.n_head} disagree: their product should be d_model={c.d_model}; give one"
        )
    if c.min_lr > c.learning_rate:
        return f"min_lr={c.min_lr:g} should be at most learning_rate={c.learning_rate:g}"
    if c.lr_decay_iters < c.warmup_iters:
        return f"warmup_iters={c.warmup_iters} should be at most lr_decay_iters={c.lr_decay_iters}"
    if c.min_workers and c.min_workers > c.workers:
        return f"min_workers={c.min_workers} should be at most workers={c.workers}"
    if c.workers > c.rows_per_iteration:
        return f"workers={c.workers} should be at most the {c.rows_per_iteration} rows of an iteration"
    return _view_problem(c) or _path_problem(c)


def _view_problem(config: Config) -> str | None:
    """Why the task has no such view, or rows can't hold its lines, in words."""
    if config.view == "plain":
        return None
    try:
        view = config.open_view("", config.task.separator)
    except UserError as error:
        return str(error)
    if view.longest_line > config.block_size:
        return (
            f"block_size={config.block_size} should be at least {view.longest_line}, "
            f"the longest line of view={config.view!r}"
        )
    if not view.keeps_lines and not (config.align_to_lines and config.isolate_lines):
        return (
            f"view={config.view!r} gives lines positions of their own: use align_to_lines=True and isolate_lines=True"
        )
    return None


def _path_problem(config: Config) -> str | None:
    """The first parameter that no file system could have as a path, in words."""
    for name in ("out_dir", "init_from", "data_dir", "dataset"):
        problem = path_problem(name, getattr(config, name))
        if problem:
            return problem
    return None


def path_problem(name: str, value: str) -> str | None:
    """Why no file system could have `value`, the parameter `name`, as a path, in words; None where one could."""
    longest = max(map(len, os.fsencode(value).split(b"/")))
    if "\0" in value:
        return f"{name}={shortened(value)} should hold no NUL character"
    if longest > 255:
        return f"{name}={shortened(value)} holds a name of {longest} bytes; at most 255 are possible"
    return None


def may_agree(name: str, one: Any, other: Any) -> bool:
    """Whether two values of a parameter can mean the same: a mask up to the separator is one up to some character."""
    masks = name == "mask_before_token" and SEPARATOR in (one, other) and None not in (one, other)
    return bool(one == other or masks)
