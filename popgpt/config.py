"""Every parameter of a run, once: its type, default, bounds and meaning. There is no other schema."""

from __future__ import annotations

import difflib
import os
import re
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator
from pydantic.fields import FieldInfo

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

COMMAND_LINE = "command line"
ALIASES = {"n_embd": "d_model"}
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


class UserError(Exception):
    """What the user can mend. The message is one line that names what is wrong and what would be right."""


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
    mask_before_token: Annotated[str, Field(min_length=1, max_length=1)] | None = Field(
        "=", description="no loss on targets up to and including this character; null: loss on all"
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
    best_by: Literal["exact_match", "token_accuracy", "val_loss"] = Field(
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
        if n_head is None and isinstance(d_head, int) and d_head > 0:
            _check_divides(d_model, d_head, "d_head")
            given["n_head"] = d_model // d_head
        elif d_head is None and isinstance(n_head, int) and n_head > 0:
            _check_divides(d_model, n_head, "n_head")
            given["d_head"] = d_model // n_head
    return given


def _usable_rate(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) <= FASTEST


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _check_divides(d_model: int, part: int, name: str) -> None:
    if d_model % part:
        nearest = min((d for d in range(1, d_model + 1) if d_model % d == 0), key=lambda d: (abs(d - part), d))
        multiple = max(1, round(d_model / part)) * part
        raise ValueError(
            f"{name}={part} does not divide d_model={d_model}; "
            f"nearest that does: {name}={nearest} (or d_model={multiple})"
        )


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
        value = getattr(config, name)
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
            raise UserError(f"{alias}={given[alias]} and {name}={given[name]} are one parameter; give one of them")
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
        lines = [
            explain_error(e, Config.model_fields, COMMAND_LINE if typed & _blamed(e) else source)
            for e in error.errors()
        ]
        raise UserError("\n".join(lines)) from None


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


def explain_error(error: Mapping[str, Any], fields: Mapping[str, FieldInfo], source: str) -> str:
    """One line for one of pydantic's errors."""
    key = ".".join(str(part) for part in error["loc"] if not str(part).startswith(("constrained", "function")))
    if error["type"] == "value_error":
        return f"{source}: {error['ctx']['error']}"
    if error["type"] == "extra_forbidden":
        return (
            f"{source}: unknown parameter {key}={shortened(error['input'])}{nearest_name(key.split('.')[-1], fields)}"
        )
    if error["type"] == "less_than_equal":
        return f"{source}: {key}={shortened(error['input'])} should be at most {error['ctx']['le']}"
    if error["type"] == "missing":
        return f"{source}: {key} is missing"
    wanted = (
        re.sub(r"^(Input|String|Value) ", "", error["msg"])
        .replace("should be a valid", "should be a")
        .replace("a integer", "an integer")
    )
    return f"{source}: {key}={shortened(error['input'])} {wanted}"


def shortened(value: Any) -> str:
    """`repr(value)`, less the middle of what is too long for a line."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 80
    short.maxlist = short.maxdict = 8
    return short.repr(value)


def nearest_name(name: str, names: Iterable[str]) -> str:
    """`; did you mean X?` for the known name nearest to `name`, or nothing."""
    close = difflib.get_close_matches(name, [*names, *ALIASES], n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else "; see --help for the known ones"


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-3 is a number, a date is text and a key given twice is an error."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.composer.ComposerError(None, None, f"{key.value} is given twice", key.start_mark)
            seen.add(key.value)
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises UserError where there is none."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    return parse_yaml(content, path)


def parse_yaml(content: bytes, path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file's content. Raises UserError where there is none, naming `path`."""
    try:
        values = yaml.load(content.decode(), _Loader)
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a UTF-8 text file") from None
    except Exception as error:  # PyYAML lets through what int() and deep nesting raise
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise UserError(f"{where}: not valid YAML: {_yaml_problem(error)}") from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UserError(f"{path}: should be a mapping of parameters, `name: value` a line")
    return values


def _yaml_problem(error: Exception) -> str:
    """What is wrong with a YAML text, in one line."""
    return " ".join(str(getattr(error, "problem", None) or error).split())


def dump_yaml(values: Mapping[str, Any]) -> str:
    """YAML text that read_yaml gives back as it was."""
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)


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
        return yaml.load(text, _Loader)
    except Exception as error:  # PyYAML lets through what int() and deep nesting raise
        raise UserError(f"{shortened(word)}: the value is not valid YAML: {_yaml_problem(error)}") from None
