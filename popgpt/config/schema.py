"""Every parameter of a run, once: its type, default, bounds and meaning. There is no other schema."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, model_validator

from popgpt.metrics.metric import MetricName
from popgpt.tasks.base import Task
from popgpt.tasks.registry import DEFAULT_TASK, make_task, task_name
from popgpt.text.errors import UserError, shortened

PositiveInt = Annotated[int, Field(gt=0)]
WIDEST, LONGEST, MOST_ROWS, MOST, FASTEST = 2**16, 2**20, 2**20, 2**31, 1e30
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Count = Annotated[int, Field(gt=0, le=MOST)]
Rows = Annotated[int, Field(gt=0, le=MOST_ROWS)]
Width = Annotated[int, Field(gt=0, le=WIDEST)]
Workers = Annotated[int, Field(gt=0, le=1024)]
Probability = Annotated[float, Field(ge=0, lt=1)]

SEPARATOR = "separator"


def _check_mask(value: str) -> str:
    if value != SEPARATOR and len(value) != 1:
        raise ValueError(f"mask_before_token={shortened(value)} should be {SEPARATOR}, one character, or null")
    return value


Mask = Annotated[str, AfterValidator(_check_mask)]

DERIVED = {
    "dataset": ("task",),
    "lr_decay_iters": ("max_iters", "warmup_iters"),
    "min_lr": ("learning_rate",),
    "d_head": ("d_model", "n_head"),
    "n_head": ("d_model", "d_head"),
}
# Where and how a run goes on and is recorded, which changes nothing of what it comes to.
PLACE = (
    *("out_dir", "data_dir", "device", "workers", "min_workers", "max_failures", "worker_timeout"),
    *("experiment", "mlflow_log", "wandb_log", "wandb_project", "wandb_run_name"),
)


class Config(BaseModel):
    """A run, validated and with every derived value filled in. Immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True, allow_inf_nan=False)

    # The run
    out_dir: str = Field("out", min_length=1, description="folder of the run, by path or URI (s3://bucket/run)")
    init_from: str = Field(
        "scratch", min_length=1, description="scratch | resume (from out_dir) | the path or URI of a checkpoint"
    )
    seed: Seed = Field(1337, description="of the weights, the order of the data and dropout")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda where there is one, else cpu")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of the matrix products; weights are float32")
    compile: bool = Field(False, description="torch.compile the model")
    workers: Workers = Field(1, description="processes that share the rows of each iteration")
    min_workers: Workers | None = Field(
        None, description="go on with as few where some are lost (--workers MIN:MAX); null: with all or not at all"
    )
    max_failures: Annotated[int, Field(ge=-1, le=MOST)] = Field(
        10, description="restarts after a worker or its node was lost, at most; -1: any number"
    )
    worker_timeout: Annotated[float, Field(gt=0, le=MOST)] = Field(
        600.0, description="seconds without an iteration after which workers are restarted as hung"
    )

    # The dataset
    task: Annotated[SerializeAsAny[Task], BeforeValidator(make_task)] = Field(  # type: ignore[assignment]
        DEFAULT_TASK, description="what is learned: a task's name, or {name: ..., option: ...}"
    )
    dataset: str = Field(
        DEFAULT_TASK, pattern=r"^[\w.-]+$", description="name of the dataset inside data_dir; default the task's name"
    )
    data_dir: str = Field("data", min_length=1, description="folder that holds the datasets")
    data_seed: Seed = Field(1, description="of the generator and of the split")
    train_lines: Count = Field(200_000, description="lines to generate for training")
    val_lines: Count = Field(2_000, description="lines to generate for validation")
    test_lines: Count = Field(2_000, description="lines to generate for the final test")

    # Rows
    block_size: Annotated[int, Field(ge=2, le=LONGEST)] = Field(64, description="positions of a row, T")
    align_to_lines: bool = Field(True, description="rows hold complete lines only; false: contiguous windows")
    isolate_lines: bool = Field(True, description="a line sees only itself; false: also the earlier lines of its row")
    mask_before_token: Mask | None = Field(
        SEPARATOR, description="no loss on targets up to and including it, the dataset's separator; null: loss on all"
    )
    mask_per_line: bool = Field(True, description="mask anew after each newline; false: once a row")

    # The batch
    batch_size: Rows = Field(128, description="rows of a micro-step")
    gradient_accumulation_steps: Rows = Field(1, description="micro-steps of an iteration, over all workers")

    # The model
    n_layer: Annotated[int, Field(gt=0, le=1024)] = Field(2, description="transformer blocks")
    d_model: Width = Field(128, description="width, D (alias n_embd)")
    d_head: Width = Field(32, description="width of a head; d_model / n_head")
    n_head: Width = Field(4, description="heads, H; d_model / d_head")
    dropout: Probability = Field(0.0, description="on the embeddings and on what each block adds")
    bias: bool = Field(False, description="biases in linear layers and norms")

    # The optimizer
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

    # Evaluation and logging
    eval_interval: Count = Field(100, description="iterations between evaluations; the last is always evaluated")
    eval_iters: Count = Field(200, description="batches of batch_size validation rows an evaluation reads at most")
    log_interval: Count = Field(10, description="iterations between logged losses")
    best_by: MetricName = Field(
        "exact_match", description="what makes one evaluation better than another; token accuracy decides ties"
    )
    always_save_checkpoint: bool = Field(
        False, description="ckpt.pt at every evaluation; false: only when it is the best"
    )

    # Tracking
    experiment: str | None = Field(None, min_length=1, description="MLflow experiment; default the dataset's name")
    mlflow_log: bool = Field(True, description="record the run in MLflow")
    wandb_log: bool = Field(False, description="record the run in Weights & Biases")
    wandb_project: str = Field("popgpt", min_length=1, description="project in Weights & Biases")
    wandb_run_name: str | None = Field(
        None, min_length=1, description="name of the run, in MLflow too; default out_dir's"
    )

    @model_validator(mode="before")
    @classmethod
    def _derive(cls, given: Any) -> Any:
        return _with_derived(dict(given)) if isinstance(given, Mapping) else given

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


def _with_derived(given: dict[str, Any]) -> dict[str, Any]:
    """Fill in what follows from other parameters; null is as if left out. What is wrong is left for validation."""
    given = {name: value for name, value in given.items() if value is not None or name not in DERIVED}
    value = {name: given.get(name, field.default) for name, field in Config.model_fields.items()}
    if isinstance(value["max_iters"], int) and "lr_decay_iters" not in given:
        given["lr_decay_iters"] = min(max(value["max_iters"], _number(value["warmup_iters"]), 1), MOST)
    if "min_lr" not in given:
        given["min_lr"] = float(f"{value['learning_rate'] / 10:.12g}") if _usable_rate(value["learning_rate"]) else 0.0
    if "dataset" not in given:
        given["dataset"] = task_name(value["task"])
    d_model, d_head, n_head = value["d_model"], given.get("d_head"), given.get("n_head")
    if isinstance(d_model, int) and 0 < d_model <= WIDEST:
        if d_head is None and n_head is None:
            d_head = given["d_head"] = min(value["d_head"], d_model)
        if n_head is None and isinstance(d_head, int) and 0 < d_head <= WIDEST:
            _check_divides(d_model, d_head, "d_head")
            given["n_head"] = d_model // d_head
        elif d_head is None and isinstance(n_head, int) and 0 < n_head <= WIDEST:
            _check_divides(d_model, n_head, "n_head")
            given["d_head"] = d_model // n_head
    return given


def derived(given: Mapping[str, Any]) -> dict[str, Any]:
    """What is given and what follows from it. Raises UserError where nothing can."""
    try:
        return {**{name: field.default for name, field in Config.model_fields.items()}, **_with_derived(dict(given))}
    except ValueError as error:
        raise UserError(str(error)) from None


def _usable_rate(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) <= FASTEST


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _check_divides(d_model: int, part: int, name: str) -> None:
    if d_model % part:
        nearest = min(divisors(d_model), key=lambda d: (abs(d - part), d))
        multiple = max(1, round(d_model / part)) * part
        raise ValueError(
            f"{name}={part} does not divide d_model={d_model}; "
            f"nearest that does: {name}={nearest} (or d_model={multiple})"
        )


@lru_cache(2**14)
def divisors(whole: int) -> tuple[int, ...]:
    """The divisors of a whole number above 0, ascending, in time proportional to its square root at most."""
    found, rest, prime = [1], whole, 2
    while rest > 1:
        prime = prime if prime * prime <= rest else rest
        power, before = 1, found
        while rest % prime == 0:
            rest //= prime
            power *= prime
            found = found + [divisor * power for divisor in before]
        prime += 1 if prime == 2 else 2
    return tuple(sorted(found))


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
    return _path_problem(c)


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
