"""Every parameter of a run, once: its type, default, bounds and meaning. There is no other schema."""

from __future__ import annotations

import copy
import difflib
import os
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo

from popgpt.metrics.metric import MetricName
from popgpt.text.errors import MOST_TOLD, UserError, named, shortened, told_together

PositiveInt = Annotated[int, Field(gt=0)]
WIDEST, LONGEST, MOST_ROWS, MOST, FASTEST = 2**16, 2**20, 2**20, 2**31, 1e30
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Count = Annotated[int, Field(gt=0, le=MOST)]
Rows = Annotated[int, Field(gt=0, le=MOST_ROWS)]
Width = Annotated[int, Field(gt=0, le=WIDEST)]
Workers = Annotated[int, Field(gt=0, le=1024)]
Probability = Annotated[float, Field(ge=0, lt=1)]
Operation = Literal["+", "-", "*", "/"]
OperandDigits = Annotated[int, Field(ge=1, le=9)]
Digits = Annotated[int, Field(ge=0, le=9)]
Number = TypeVar("Number")
# The tags pick one branch to report on, and are named so that explain_error leaves them out of the key.
PerOperation = Annotated[
    Annotated[Number, Tag("constrained-number")] | Annotated[dict[Operation, Number], Tag("constrained-mapping")],
    Discriminator(lambda value: "constrained-mapping" if isinstance(value, dict) else "constrained-number"),
]

SEPARATOR = "separator"


def _check_mask(value: str) -> str:
    if value != SEPARATOR and len(value) != 1:
        raise ValueError(f"mask_before_token={shortened(value)} should be {SEPARATOR}, one character, or null")
    return value


Mask = Annotated[str, AfterValidator(_check_mask)]

COMMAND_LINE = "command line"
ALIASES = {"n_embd": "d_model"}
# What other programs call our parameters; and, where there is none like it, what to do instead.
_FOREIGN = {
    "learning_rate": "lr base_lr max_lr peak_lr",
    "min_lr": "lr_min min_learning_rate final_lr end_lr eta_min",
    "n_head": "n_heads num_heads nhead heads num_attention_heads",
    "d_head": "head_dim dim_head head_size",
    "n_layer": "n_layers num_layers layers depth num_hidden_layers n_blocks",
    "d_model": "hidden_size hidden_dim embed_dim embedding_dim embedding_size n_embed dim width",
    "batch_size": "bs batch train_batch_size micro_batch_size per_device_batch_size",
    "gradient_accumulation_steps": "grad_accum grad_accum_steps gradient_accumulation accumulate_grad_batches",
    "max_iters": "max_steps steps num_steps n_steps train_steps total_steps iters iterations num_iters num_iterations",
    "warmup_iters": "warmup warmup_steps num_warmup_steps lr_warmup_steps",
    "lr_decay_iters": "lr_decay_steps decay_steps decay_iters",
    "weight_decay": "wd weightdecay l2 weight_decay_rate",
    "dropout": "dropout_rate dropout_prob dropout_p p_dropout resid_pdrop attn_pdrop",
    "block_size": "context context_length context_size seq_len seq_length sequence_length max_seq_len max_length n_ctx "
    "n_positions",
    "grad_clip": "clip clip_grad gradient_clip gradient_clip_val max_grad_norm max_norm",
    "optimizer": "optim opt",
    "beta1": "adam_beta1 b1 momentum",
    "beta2": "adam_beta2 b2",
    "dtype": "precision amp_dtype",
    "compile": "torch_compile",
    "workers": "num_workers n_workers world_size nproc_per_node",
    "seed": "random_seed random_state rng_seed",
    "eval_interval": "eval_every eval_steps eval_freq val_interval validate_every",
    "log_interval": "log_every logging_steps log_freq print_every",
    "best_by": "monitor metric",
    "out_dir": "output_dir save_dir run_dir checkpoint_dir log_dir",
    "data_dir": "data_path data_folder data_root",
    "dataset": "dataset_name data",
    "wandb_run_name": "run_name name",
    "experiment": "experiment_name project",
    "a rate that does not decay is min_lr equal to learning_rate": "decay_lr",
    "the schedule is linear over warmup_iters, then a cosine down to min_lr at lr_decay_iters": "scheduler "
    "lr_scheduler lr_schedule lr_scheduler_type",
    "a run is measured in iterations, max_iters; explain says how many epochs they are": "epochs n_epochs num_epochs "
    "max_epochs num_train_epochs",
    "give dtype: bfloat16": "fp16 bf16 amp mixed_precision",
    "give beta1 and beta2": "betas adam_betas",
    "it follows from the rest; leave it out": "vocab_size backend",
    "score a run by python -m popgpt.evaluate OUT_DIR": "eval_only",
    "give init_from: resume": "resume",
    "give device: cuda, and workers for several": "gpus num_gpus",
}


def by_foreign_name(table: Mapping[str, str]) -> dict[str, str]:
    """The table from what others say to what is meant, of one from what is meant to what others say, in words."""
    return {name: meant for meant, names in table.items() for name in names.split()}


FOREIGN = by_foreign_name(_FOREIGN)
DERIVED = {
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
    dataset: str = Field("calculator", pattern=r"^[\w.-]+$", description="name of the dataset inside data_dir")
    data_dir: str = Field("data", min_length=1, description="folder that holds the datasets")
    data_seed: Seed = Field(1, description="of the generator and of the split")
    train_lines: Count = Field(200_000, description="lines to generate for training")
    val_lines: Count = Field(2_000, description="lines to generate for validation")
    test_lines: Count = Field(2_000, description="lines to generate for the final test")
    operations: str = Field("+-*/", pattern=r"^[-+*/]+$", description="operations of the calculator, balanced")
    operation_weights: dict[Operation, Count] = Field(
        {}, description="share of an operation's lines, for example {'*': 3}; those not named weigh 1"
    )
    integer_digits: PerOperation[OperandDigits] = Field(
        2, description="digits before an operand's point, at most; one number, or one for each operation"
    )
    decimals: PerOperation[Digits] = Field(
        1, description="digits after an operand's point, at most; one number, or one for each operation"
    )
    result_decimals: Digits = Field(2, description="digits after a quotient's point, at most")
    quotients: Literal["rounded", "exact"] = Field(
        "rounded", description="rounded: half to even, to result_decimals; exact: only those that end within them"
    )
    signed: bool = Field(False, description="half of the operands are negative")
    terms: Annotated[int, Field(ge=2, le=4)] = Field(2, description="operands of a prompt, with the usual precedence")
    parentheses: bool = Field(False, description="also prompts with a pair of parentheses; takes 3 terms")
    balance: Literal["lengths", "carries"] = Field(
        "lengths", description="lengths: of the operands; carries: also the number of carries or borrows of + and -"
    )

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
    if len(set(c.operations)) != len(c.operations):
        return f"operations={c.operations!r} should name each operation once"
    return _path_problem(c) or _calculator_disagreement(c)


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


def _calculator_disagreement(c: Config) -> str | None:
    """The first combination of the calculator's options that cannot be, in words."""
    for operation in c.operation_weights:
        if operation not in c.operations:
            return f"operation_weights names {operation!r}, which is not in operations={c.operations!r}"
    for name in ("integer_digits", "decimals"):
        value = getattr(c, name)
        if isinstance(value, dict) and set(value) != set(c.operations):
            return f"{name}={value!r} should have a number for each of operations={c.operations!r}, and no other"
    if c.parentheses and c.terms == 2:
        return "parentheses=True makes no difference with terms=2; use terms=3 or 4"
    if c.quotients == "exact" and (c.terms > 2 or "/" not in c.operations):
        return "quotients='exact' takes terms=2 and an operation '/'; use quotients='rounded'"
    if c.balance == "carries" and (c.terms > 2 or c.signed or not set("+-") & set(c.operations)):
        return "balance='carries' takes terms=2, signed=False and an operation '+' or '-'; use balance='lengths'"
    return None


def may_agree(name: str, one: Any, other: Any) -> bool:
    """Whether two values of a parameter can mean the same: a mask up to the separator is one up to some character."""
    masks = name == "mask_before_token" and SEPARATOR in (one, other) and None not in (one, other)
    return bool(one == other or masks)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `over` on top, aliases resolved. Naming a head's width replaces an earlier number of heads."""
    base, over = _canonical(base), _canonical(over)
    heads = {"d_head", "n_head"}
    if any(over.get(head) is not None for head in heads):
        base = {key: value for key, value in base.items() if key not in heads}
    return {**base, **over}


def _canonical(given: Mapping[str, Any]) -> dict[str, Any]:
    for alias, name in ALIASES.items():
        if alias in given and name in given and given[alias] != given[name]:
            both = f"{alias}={shortened(given[alias])} and {name}={shortened(given[name])}"
            raise UserError(f"{both} are one parameter; give one of them")
    return {ALIASES.get(key, key): value for key, value in given.items()}


def make_config(values: Mapping[str, Any], source: str = "config", typed: Iterable[str] = ()) -> Config:
    """Validate `values`, of which the command line gave `typed` and `source` the others.

    Raises UserError: a line for each mistake, naming where it is, key, value and what would be right.
    """
    values = _canonical(values)
    try:
        return Config(**values)
    except ValidationError as error:
        typed = {ALIASES.get(key, key) for key in typed}
        errors = error.errors(include_url=False)
        lines = [
            explain_error(e, Config.model_fields, COMMAND_LINE if typed & _blamed(e) else source)
            for e in errors[:MOST_TOLD]
        ]
        raise told_together(lines, len(errors[MOST_TOLD:])) from None


def _blamed(error: Mapping[str, Any]) -> set[str]:
    """The parameters that one of pydantic's errors is about."""
    return {str(error["loc"][0])} if error["loc"] else set(re.findall(r"\w+", error["msg"]))


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """The config in a YAML file with `key=value` overrides on top. Raises UserError."""
    base = read_yaml(path)
    if "space" in base:
        raise UserError(f"{path}: a search space, not a config; sweep it with python -m popgpt.tune {path}")
    over = parse_overrides(overrides)
    return make_config(merge(base, over), str(path), typed=over)


def where_from(path: str | Path, overrides: Iterable[str] = ()) -> dict[str, str]:
    """For each parameter: command line, file, derived (from one of those) or default."""
    over, base = _canonical(parse_overrides(overrides)), _canonical(read_yaml(path))
    named = {**dict.fromkeys(base, "file"), **dict.fromkeys(over, COMMAND_LINE)}
    given = {**base, **over}
    named = {name: origin for name, origin in named.items() if given[name] is not None or name not in DERIVED}
    for derived, origins in DERIVED.items():
        if derived not in named and any(origin in named for origin in origins):
            named[derived] = "derived"
    return {name: named.get(name, "default") for name in Config.model_fields}


def explain_error(
    error: Mapping[str, Any], fields: Mapping[str, FieldInfo], source: str, foreign: Mapping[str, str] = FOREIGN
) -> str:
    """One line for one of pydantic's errors."""
    parts = [str(part) for part in error["loc"] if not str(part).startswith(("constrained", "function", "["))]
    key = named(".".join(parts))
    if error["type"] == "value_error":
        return f"{source}: {error['ctx']['error']}"
    given = shortened(error["input"])
    if error["type"] == "extra_forbidden":
        return f"{source}: unknown parameter {key}={given}{nearest_name(parts[-1], fields, foreign)}"
    if error["type"] == "less_than_equal":
        return f"{source}: {key}={given} should be at most {error['ctx']['le']}"
    if error["type"] == "missing":
        return f"{source}: {key} is missing"
    if error["type"] == "bool_type":
        return f"{source}: {key}={given} should be true or false"
    if error["type"] == "string_too_short":
        return f"{source}: {key}={given} should not be empty; leave it out for the default"
    if error["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return f"{source}: {key}={given} should be a mapping, {{name: value}}"
    wanted = (
        re.sub(r"^(Input|String|Value) ", "", error["msg"])
        .replace("should be a valid", "should be a")
        .replace("a integer", "an integer")
    )
    return f"{source}: {key}={given} {wanted}"


def nearest_name(name: str, names: Iterable[str], foreign: Mapping[str, str] = FOREIGN) -> str:
    """`; did you mean X?` for what is most likely meant by `name`, or what to do instead, or where the names are told.

    foreign: what others call something, and our name for it, or words.
    """
    known = [*names, *(alias for alias, meant in ALIASES.items() if meant in names)]
    meant = foreign.get(name.lower().replace("-", "_"), "")
    if " " in meant:
        return f"; {meant}"
    close = [meant] if meant in known else difflib.get_close_matches(name[:80], known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else "; see --help for the known ones"


LARGEST_FILE, DEEPEST, MOST_NODES, LONGEST_NUMBER = 2**16, 32, 2**16, 1000
_CORE = {  # YAML 1.2.2, 10.3.2
    "null": re.compile(r"(?:null|Null|NULL|~|)\Z"),
    "bool": re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"),
    "int": re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z"),
    "float": re.compile(
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
    ),
}
_MERGE = re.compile(r"<<\Z")


def _refused(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


class _Loader(yaml.SafeLoader):
    """YAML by the core schema of YAML 1.2, with the merge key of 1.1.

    PyYAML reads YAML 1.1, where 010 is 8, 1:30 is 90 and yes is true. Beside that, a key given twice is an error here,
    and so is what is too deep, or too much once its aliases are followed.
    """

    yaml_implicit_resolvers: dict[str | None, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._nested = 0
        self._sizes: dict[int, int] = {}  # of the nodes that are whole, with all that they hold

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        mark, alias = event.start_mark, isinstance(event, yaml.AliasEvent)
        self._nested += 1
        if self._nested > DEEPEST:
            raise _refused(f"nested more than {DEEPEST} deep", mark)
        node = super().compose_node(parent, index)
        assert node is not None
        self._nested -= 1
        if alias and id(node) not in self._sizes:
            raise _refused("an alias stands inside what it names", mark)
        if not alias:
            parts = node.value if isinstance(node, yaml.CollectionNode) else []
            parts = [part for pair in parts for part in pair] if isinstance(node, yaml.MappingNode) else parts
            self._sizes[id(node)] = 1 + sum(self._sizes[id(part)] for part in parts)
        if self._sizes[id(node)] > MOST_NODES:
            raise _refused(f"more than {MOST_NODES} values, aliases followed", mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise _refused(f"{named(key.value)} is given twice", key.start_mark)
            seen.add(key.value)
        return node

    def construct_core(self, node: yaml.ScalarNode) -> Any:
        """A scalar that is resolved, or tagged, as one of the core schema's."""
        text, kind = str(self.construct_scalar(node)), node.tag.rpartition(":")[2]
        if not _CORE[kind].match(text):
            raise _refused(f"{shortened(text)} is no {kind}", node.start_mark)
        if len(text) > LONGEST_NUMBER:
            raise _refused(f"a number of {len(text)} digits", node.start_mark)
        if kind == "int":
            return int(text[2:], {"0o": 8, "0x": 16}[text[:2]]) if text[:2] in ("0o", "0x") else int(text)
        if kind == "float":
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        return None if kind == "null" else text.lower() == "true"


class _Dumper(yaml.SafeDumper):
    """Quotes what would be no text to YAML 1.1 or to 1.2."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: list(resolvers) for first, resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }


_FIRST = {"null": ["", *"nN~"], "bool": [*"tTfF"], "int": [*"-+0123456789"], "float": [*"-+.0123456789"]}
for _kind, _pattern in _CORE.items():
    for _reader in (_Loader, _Dumper):
        _reader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", _pattern, _FIRST[_kind])
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", _MERGE, ["<"])
_Loader.yaml_constructors = {
    **{f"tag:yaml.org,2002:{kind}": _Loader.construct_core for kind in _CORE},
    **{f"tag:yaml.org,2002:{kind}": getattr(_Loader, f"construct_yaml_{kind}") for kind in ("str", "seq", "map")},
    "tag:yaml.org,2002:merge": _Loader.construct_yaml_str,  # `<<` that is no key
    None: _Loader.construct_undefined,
}


@lru_cache(8)
def _loaded(text: str) -> Any:
    """What a YAML text holds. Raises many kinds of errors."""
    if len(text) > LARGEST_FILE:
        raise ValueError(f"{len(text)} characters are too many; at most {LARGEST_FILE} are possible")
    return yaml.load(text, _Loader)


def _load(text: str) -> Any:
    """What a YAML text holds, the caller's own. Raises many kinds of errors."""
    return copy.deepcopy(_loaded(text))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises UserError where there is none."""
    try:
        with open(path, "rb") as file:
            content = file.read(4 * LARGEST_FILE + 1)
    except FileNotFoundError as error:
        given = "; the file comes first, then key=value" if "=" in str(path) else ""
        raise UserError(f"{named(str(path), 300)}: {error.strerror}{given}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character
        raise UserError(f"{named(str(path), 300)}: {getattr(error, 'strerror', None) or error}") from None
    return parse_yaml(content, path)


def parse_yaml(content: bytes, path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file's content. Raises UserError where there is none, naming `path`."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a UTF-8 text file") from None
    try:
        values = _load(text)
    except Exception as error:  # PyYAML lets through what int() and deep nesting raise
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise UserError(_python_syntax(text, path) or f"{where}: not valid YAML: {_yaml_problem(error)}") from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        wanted = "should be a mapping of parameters, `name: value` a line"
        raise UserError(_python_syntax(text, path) or f"{path}: {wanted}")
    return values


def _python_syntax(text: str, path: str | Path) -> str | None:
    """The first assignment of a text that is in Python's syntax, and what it would be in YAML; None where it isn't."""
    for number, line in enumerate(text.splitlines(), 1):
        if found := re.match(r"([A-Za-z_]\w*)\s*=(?!=)\s*([^\s#][^#]*)", line):
            name, value = found[1], found[2].strip()
            yaml_value = {"True": "true", "False": "false", "None": "null"}.get(value, value)
            told, wanted = shortened(line.strip()), shortened(f"{name}: {yaml_value}")
            return f"{path}:{number}: {told} is Python; a config is YAML: {wanted}"
    return None


def _yaml_problem(error: Exception) -> str:
    """What is wrong with a YAML text, in one line."""
    said = str(getattr(error, "problem", None) or getattr(error, "reason", None) or error).splitlines() or [""]
    return "nested too deeply" if isinstance(error, RecursionError) else named(" ".join(said[0].split())[:300])


def dump_yaml(values: Mapping[str, Any]) -> str:
    """YAML text that read_yaml gives back as it was."""
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def parse_overrides(overrides: Iterable[str], fields: Mapping[str, FieldInfo] = Config.model_fields) -> dict[str, Any]:
    """`key=value` words as a mapping; a later word wins. Text parameters take their value as it stands."""
    values: dict[str, Any] = {}
    for word in overrides:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise UserError(f"{shortened(word)} should be key=value")
        field = fields.get(ALIASES.get(key, key))
        values[key] = _scalar(text, field.annotation if field else None, word)
    return values


def _scalar(text: str, annotation: Any, word: str) -> Any:
    kinds = {annotation, *get_args(annotation)}
    if type(None) in kinds and text in ("null", "none", "None", ""):
        return None
    kinds |= {get_args(kind)[0] for kind in kinds if get_origin(kind) is Annotated}
    if any(kind is str or isinstance(kind, str) for kind in kinds):
        return text
    try:
        return _load(text)
    except Exception as error:  # PyYAML lets through what int() and deep nesting raise
        raise UserError(f"{shortened(word)}: the value is not valid YAML: {_yaml_problem(error)}") from None
