"""The search space: a YAML file checked against config.py, and the trials drawn from it."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from popgpt.config import (
    ALIASES,
    Config,
    PositiveInt,
    UserError,
    explain_error,
    make_config,
    merge,
    nearest_name,
    parse_overrides,
    read_yaml,
)
from popgpt.data import calculator
from popgpt.metrics import METRICS

KINDS = ("choice", "uniform", "loguniform", "randint", "grid", "divisors_of")
RANGES = ("uniform", "loguniform", "randint")
HEADS = frozenset({"d_head", "n_head"})
DATA = frozenset({"dataset", "data_dir", "data_seed", "train_lines", "val_lines", "test_lines", *calculator.OPTIONS})
RUN = frozenset(
    {"out_dir", "init_from", "device", "workers", "experiment"}
    | {"mlflow_log", "wandb_log", "wandb_project", "wandb_run_name"}
)
LARGEST = 2**31
DRAWS = 10_000
REFUSALS = 1_000

_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True, allow_inf_nan=False)


class Asha(BaseModel):
    """When a trial is judged, in iterations, and what follows."""

    model_config = _STRICT

    grace_period: PositiveInt = Field(default=100, description="first rung: no trial is judged before it")
    reduction_factor: Annotated[int, Field(ge=2)] = Field(
        default=3, description="one trial in so many goes on from a rung"
    )
    brackets: PositiveInt = Field(default=1, description="bracket s starts at grace_period * reduction_factor^s")
    max_t: PositiveInt | None = Field(
        default=None, description="where every trial ends; default the config's max_iters"
    )
    rule: Literal["promote", "stop"] = Field(
        default="promote",
        description="at a rung, promote: each trial is held, the best go on; stop: it goes on at once, or ends",
    )


class Resources(BaseModel):
    """What one trial reserves, all its workers together."""

    model_config = _STRICT

    cpus_per_trial: Annotated[float, Field(ge=0.01)] | Literal["auto"] = Field(
        default="auto", description="CPU cores of a trial; auto: one a worker, and what else this machine has"
    )
    gpus_per_trial: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        default="auto", description="GPUs of a trial, maybe a fraction; auto: one a worker, or on this machine a share"
    )
    max_concurrent: PositiveInt | Literal["auto"] = Field(
        default="auto", description="trials at a time; auto: what fits"
    )


class SweepFile(BaseModel):
    """The keys of a search-space file."""

    model_config = _STRICT

    config: str = Field(min_length=1, description="the base config's file, relative to this one")
    metric: Literal["exact_match", "token_accuracy", "val_loss"] = Field(
        default="exact_match", description="what is best: highest exact_match or token_accuracy, or lowest val_loss"
    )
    num_samples: PositiveInt = Field(default=8, description="draws, for each grid point where there is a grid")
    out_dir: str = Field(default="sweep", min_length=1, description="folder of the sweep")
    seed: Annotated[int, Field(ge=0)] = Field(default=0, description="of the draws; the config's seed is the runs'")
    search: Literal["random", "optuna"] = Field(
        default="random", description="optuna: by TPE, from what the trials before it came to; takes popgpt[optuna]"
    )
    space: dict[str, Any] = Field(description="parameter: {choice: [...]}, a range, {grid: [...]} or a fixed value")
    points_to_evaluate: list[dict[str, Any]] = Field(
        default=[], description="swept parameters of the first trials; they count among num_samples"
    )
    asha: Asha | None = Field(default=Asha(), description="early stopping; null: every trial runs to its end")
    finalists: Annotated[int, Field(ge=0)] = Field(
        default=3, description="best trials that are trained to the full budget with more seeds; 0: none"
    )
    finalist_seeds: PositiveInt = Field(default=2, description="more seeds of each finalist; the best mean wins")
    resources: Resources = Field(default=Resources(), description="of one trial")


@dataclass(frozen=True)
class Domain:
    """Where a parameter's values come from: its choices; the two ends of a range, both included; or the parameter whose
    divisors they are, and their bounds. `when`: a parameter, and the values of it for which this one is drawn at all.
    """

    kind: str
    values: tuple[Any, ...]
    when: tuple[str, tuple[Any, ...]] | None = None


@dataclass(frozen=True)
class Sweep:
    """A search space, checked. `base` is unresolved: a trial's config is `make_config(merge(base, parameters))`."""

    source: str
    base: dict[str, Any]
    space: dict[str, Domain]
    points: tuple[dict[str, Any], ...]
    metric: str
    num_samples: int
    out_dir: str
    seed: int
    asha: Asha | None
    max_t: int
    resources: Resources
    finalists: int
    finalist_seeds: int
    search: str

    @property
    def mode(self) -> str:
        """`max` or `min`: which end of the metric is best."""
        return METRICS[self.metric]

    def config(self, parameters: Mapping[str, Any] | None = None) -> Config:
        """The config of a trial; without parameters, the base's. Raises UserError."""
        return make_config(merge(self.base, parameters or {}), self.source)


def rungs(asha: Asha, max_t: int) -> tuple[tuple[int, ...], ...]:
    """The rungs of each bracket in iterations: grace_period * reduction_factor^k below max_t, from k = bracket on."""
    first: list[int] = []
    at = asha.grace_period
    while at < max_t:
        first.append(at)
        at *= asha.reduction_factor
    return tuple(tuple(first[bracket:]) for bracket in range(asha.brackets))


def load_sweep(path: str | Path, overrides: Iterable[str] = ()) -> Sweep:
    """The sweep in a YAML file, `key=value` words on top: the sweep's own keys (`num_samples`, `asha.grace_period`),
    or the base config's; `config.seed` is the config's where both have the key. A swept parameter that is named is
    pinned, or given another domain: `d_model={choice: [64, 96]}`. All is checked here, before a trial starts.
    Raises UserError.
    """
    source = str(path)
    raw = read_yaml(path)
    if not {"space", "config"} & raw.keys() and Config.model_fields.keys() & raw.keys():
        raise UserError(f"{path}: a config, not a search space; train it with python -m popgpt.train {path}")
    own, run = _split(parse_overrides(overrides, _override_fields()))
    file = _validate(_overlay(raw, own), source)
    base = read_yaml(Path(path).parent / file.config if "config" not in own else file.config)
    domains = {key: value for key, value in run.items() if isinstance(value, dict) and set(KINDS) & value.keys()}
    space, fixed = _read_space(_overlay_space(file.space, domains, _replaced(run)), source)
    base = merge(merge(base, fixed), {key: value for key, value in run.items() if key not in domains})
    if base.setdefault("best_by", file.metric) != file.metric:
        raise UserError(
            f"{source}: best_by={base['best_by']!r} should be the sweep's metric={file.metric!r}, or left out"
        )
    config = make_config(base, source)
    if config.init_from == "resume":
        raise UserError(f"{source}: init_from=resume is for one run; go on with a sweep by --resume")
    if config.always_save_checkpoint:
        raise UserError(f"{source}: always_save_checkpoint=True should be false: a sweep compares each trial's best")
    _check_references(space, source)
    if file.search != "random":
        _check_no_grid(space, file.search, source)
    max_t = _max_t(file.asha, space.get("max_iters"), config.max_iters, source)
    left = [{k: v for k, v in merge({}, p).items() if k not in _replaced(run)} for p in file.points_to_evaluate]
    points = [_read_point(point, space, base, source) for point in left]
    points = [point for i, point in enumerate(points) if point not in points[:i]]
    names = ("metric", "num_samples", "out_dir", "seed", "asha", "resources", "finalists", "finalist_seeds", "search")
    own_keys = {name: getattr(file, name) for name in names}
    return Sweep(source=source, base=base, space=space, points=tuple(points), max_t=max_t, **own_keys)


def _overlay_space(given: Mapping[str, Any], domains: Mapping[str, Any], replaced: set[str]) -> dict[str, Any]:
    """The file's space less what the command line replaces; a new domain takes the old one's place in the order."""
    kept: dict[str, Any] = {}
    for key, spec in given.items():
        name = ALIASES.get(key, key)
        if name in domains:
            kept[name] = domains[name]
        elif name not in replaced:
            kept[key] = spec
    return {**kept, **domains}


def _override_fields() -> dict[str, FieldInfo]:
    nested = {"asha": Asha.model_fields, "resources": Resources.model_fields, "config": Config.model_fields}
    dotted = {f"{part}.{key}": field for part, fields in nested.items() for key, field in fields.items()}
    return {**Config.model_fields, **dotted, **SweepFile.model_fields}


def _split(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The overrides of the sweep's own keys, and those of the base config."""
    known = _override_fields()
    own: dict[str, Any] = {}
    run: dict[str, Any] = {}
    for key, value in values.items():
        name = key.removeprefix("config.")
        if key not in known and ALIASES.get(name) is None:
            raise UserError(f"unknown key {key}={value!r}{nearest_name(key, known)}")
        in_sweep = name == key and (key.split(".")[0] in SweepFile.model_fields)
        (own if in_sweep else run)[name] = value
    return own, merge({}, run)


def _overlay(raw: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in own.items():
        part, _, name = key.partition(".")
        if name:
            given = raw.get(part)
            raw[part] = {**(given if isinstance(given, dict) else {}), name: value}
        else:
            raw[part] = value
    return raw


def _validate(raw: dict[str, Any], source: str) -> SweepFile:
    try:
        return SweepFile(**raw)
    except ValidationError as error:
        lines: list[str] = []
        for e in error.errors():
            if str(e["loc"][-1]).startswith("literal"):  # a number or auto: the number's error came before
                lines[-1] += f" or {e['ctx']['expected']}"
                continue
            nested = {"asha": Asha.model_fields, "resources": Resources.model_fields}
            fields = nested.get(str(e["loc"][0]), {}) if len(e["loc"]) > 1 else SweepFile.model_fields
            lines.append(explain_error(e, fields, source))
        raise UserError("\n".join(dict.fromkeys(lines))) from None


def _replaced(run: Mapping[str, Any]) -> set[str]:
    return set(run) | (HEADS if HEADS & run.keys() else set())


def _read_space(given: Mapping[str, Any], source: str) -> tuple[dict[str, Domain], dict[str, Any]]:
    """The domains, and the values that are fixed in the space. Raises UserError."""
    space: dict[str, Domain] = {}
    fixed: dict[str, Any] = {}
    for key, spec in given.items():
        name = ALIASES.get(key, key)
        _check_name(name, key, set(space) | set(fixed), source)
        if isinstance(spec, dict):
            space[name] = _read_domain(name, spec, source)
        elif isinstance(spec, list):
            raise UserError(f"{source}: space.{key}={spec!r} should be a value or {{choice: {spec!r}}}")
        else:
            _check_value(name, spec, source)
            fixed[name] = spec
    return space, fixed


def _check_name(name: str, key: str, before: set[str], source: str) -> None:
    if name not in Config.model_fields:
        raise UserError(f"{source}: unknown parameter space.{key}{nearest_name(name, Config.model_fields)}")
    if name in RUN:
        raise UserError(f"{source}: space.{key} is no hyperparameter; set it in the config")
    if name in DATA:
        raise UserError(f"{source}: space.{key} describes the data, which all trials share; set it in the config")
    if name in before or (name in HEADS and HEADS & before):
        other = name if name in before else next(iter(HEADS & before))
        raise UserError(f"{source}: space.{key} and space.{other} are one parameter; give one of them")


def _read_domain(name: str, spec: Mapping[str, Any], source: str) -> Domain:
    where = f"{source}: space.{name}"
    kinds = [key for key in spec if key not in ("when", "between")]
    if len(kinds) != 1 or kinds[0] not in KINDS:
        unknown = next((str(key) for key in kinds if key not in KINDS), "")
        hint = nearest_name(unknown, KINDS) if unknown else ""
        raise UserError(f"{where}={dict(spec)!r} should have one of the keys {', '.join(KINDS)}{hint}")
    kind, values = kinds[0], spec[kinds[0]]
    when = _read_when(spec["when"], where, source) if "when" in spec else None
    if kind == "divisors_of":
        return Domain(kind, _read_divisors(values, spec.get("between", [1, LARGEST]), where), when)
    if "between" in spec:
        raise UserError(f"{where}: between={spec['between']!r} goes with divisors_of only")
    if not isinstance(values, list) or not values:
        wanted = "two bounds" if kind in RANGES else "values"
        raise UserError(f"{where}: {kind}={values!r} should be a list of {wanted}")
    if kind in RANGES:
        _check_range(kind, values, where)
    for value in values:
        _check_value(name, value, source)
    if kind not in RANGES and any(value in values[:i] for i, value in enumerate(values)):
        raise UserError(f"{where}: {kind}={values!r} should name each value once")
    if kind in ("uniform", "loguniform") and Config.model_fields[name].annotation is int:
        raise UserError(f"{where}: {kind} draws fractions; a whole number takes randint: {values!r} or choice")
    return Domain(kind, tuple(values), when)


def _read_divisors(of: Any, between: Any, where: str) -> tuple[str, int, int]:
    name = _referred(of, f"{where}: divisors_of={of!r}")
    if Config.model_fields[name].annotation is not int:
        raise UserError(f"{where}: divisors_of={of!r} should be a whole number, as d_model is")
    if not isinstance(between, list):
        raise UserError(f"{where}: between={between!r} should be the lowest and the highest value")
    _check_range("randint", between, where)
    return name, between[0], between[1]


def _read_when(given: Any, where: str, source: str) -> tuple[str, tuple[Any, ...]]:
    if not isinstance(given, dict) or len(given) != 1:
        raise UserError(f"{where}: when={given!r} should be {{parameter: value}} or {{parameter: [values]}}")
    ((key, value),) = given.items()
    name = _referred(key, f"{where}: when={given!r}")
    values = value if isinstance(value, list) else [value]
    for each in values:
        _check_value(name, each, source)
    return name, tuple(values)


def _referred(name: Any, where: str) -> str:
    known = ALIASES.get(str(name), str(name))
    if known not in Config.model_fields:
        raise UserError(f"{where} should name a parameter{nearest_name(known, Config.model_fields)}")
    return known


def _check_references(space: Mapping[str, Domain], source: str) -> None:
    """A parameter that depends on a swept one stands below it, so that drawing in order is enough."""
    above: set[str] = set()
    for name, domain in space.items():
        needed = {domain.when[0]} if domain.when else set()
        needed |= {domain.values[0]} if domain.kind == "divisors_of" else set()
        for other in sorted((needed & space.keys()) - above):
            raise UserError(f"{source}: space.{name} depends on {other}, which should stand above it")
        above.add(name)


def _check_no_grid(space: Mapping[str, Domain], search: str, source: str) -> None:
    for name, domain in space.items():
        if domain.kind == "grid":
            wanted = f"{{choice: {list(domain.values)!r}}} under search={search!r}"
            raise UserError(f"{source}: space.{name}: a grid leaves nothing to search for; give {wanted}")


def _read_point(
    point: Mapping[str, Any], space: Mapping[str, Domain], base: Mapping[str, Any], source: str
) -> dict[str, Any]:
    """A point to evaluate, in the order of the space."""
    given = merge({}, point)
    unknown = next((name for name in given if name not in space), None)
    if unknown is not None:
        hint = nearest_name(unknown, space)
        raise UserError(f"{source}: points_to_evaluate: {unknown}={given[unknown]!r} is not in the space{hint}")
    make_config(merge(base, given), f"{source}: points_to_evaluate")
    return {name: given[name] for name in space if name in given}


def _check_range(kind: str, values: list[Any], where: str) -> None:
    number = int if kind == "randint" else (int, float)
    if len(values) != 2 or not all(isinstance(v, number) and not isinstance(v, bool) for v in values):
        wanted = "two whole numbers" if kind == "randint" else "two numbers"
        raise UserError(f"{where}: {kind}={values!r} should be {wanted}, the lowest and the highest value")
    if not values[0] < values[1]:
        raise UserError(f"{where}: {kind}={values!r} should have its lower bound first, below the upper")
    if kind == "loguniform" and values[0] <= 0:
        raise UserError(f"{where}: {kind}={values!r} should have bounds above 0")


def _check_value(name: str, value: Any, source: str) -> None:
    """Refuse what the config would refuse of this parameter alone, whatever the others are."""
    field = Config.model_fields[name]
    adapter: TypeAdapter[Any] = TypeAdapter(
        field.rebuild_annotation(), config=ConfigDict(strict=True, allow_inf_nan=False)
    )
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        first: dict[str, Any] = {**error.errors()[0], "loc": ("space", name)}
        raise UserError(explain_error(first, Config.model_fields, source)) from None


def _max_t(asha: Asha | None, swept: Domain | None, max_iters: int, source: str) -> int:
    longest = max(swept.values) if swept else max_iters
    if asha is None:
        return int(longest)
    if asha.max_t is not None and asha.max_t > longest:
        raise UserError(f"{source}: asha.max_t={asha.max_t} should be at most max_iters={longest}")
    max_t = int(asha.max_t or longest)
    most = len(rungs(asha, max_t)[0])
    if asha.brackets > most:
        if most == 0:
            raise UserError(
                f"{source}: asha.grace_period={asha.grace_period} should be below max_t={max_t}"
                " (asha: null lets every trial run to its end)"
            )
        raise UserError(
            f"{source}: asha.brackets={asha.brackets} should be at most {most}, the rungs between "
            f"grace_period={asha.grace_period} and max_t={max_t}"
        )
    return max_t


def sample(sweep: Sweep) -> list[dict[str, Any]]:
    """The swept parameters of each trial, in order.

    First the points to evaluate, then draws of the combinations that the config accepts, up to `num_samples` trials, or
    so many for each point of the grid where there is one (as Ray Tune counts). None is drawn twice, so a finite space
    that is exhausted gives fewer. A parameter whose `when` doesn't hold is left out, and keeps the base's value.
    A function of the sweep's seed alone, and a larger `num_samples` only adds trials at the end. Floats are rounded to
    six significant digits, so that a `key=value` command repeats a trial exactly.
    Raises UserError where (nearly) every combination is refused.
    """
    grid = {name: domain.values for name, domain in sweep.space.items() if domain.kind == "grid"}
    cells = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    trials = [dict(point) for point in sweep.points]
    seen = {_key(trial) for trial in trials}
    refusal = ""
    for number in range(max(0, sweep.num_samples * len(cells) - len(trials))):
        trial, reason = _draw_valid(sweep, cells[number % len(cells)], number, seen)
        refusal = refusal or reason
        if trial is not None:
            trials.append(trial)
            seen.add(_key(trial))
    if not trials:
        raise UserError(f"{sweep.source}: the config refuses every combination of the space: {refusal}")
    return trials


def _key(trial: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(trial.items())


def _draw_valid(
    sweep: Sweep, cell: Mapping[str, Any], number: int, seen: set[tuple[tuple[str, Any], ...]]
) -> tuple[dict[str, Any] | None, str]:
    """The first new draw that the config accepts, or None; and why one was refused, or nothing."""
    size = math.prod(_size(domain) for name, domain in sweep.space.items() if name not in cell)
    tried: set[tuple[tuple[str, Any], ...]] = set()
    refusals: list[str] = []
    for attempt in range(DRAWS if len(cell) < len(sweep.space) else 1):
        try:
            drawn = _draw_all(sweep, cell, f"{sweep.seed}/{number}/{attempt}")
            fresh = _key(drawn) not in seen and _key(drawn) not in tried
            tried.add(_key(drawn))
            if fresh:
                sweep.config(drawn)
                return drawn, ""
        except UserError as error:
            refusals.append(str(error).splitlines()[0].removeprefix(f"{sweep.source}: "))
        if len(tried) == size or len(refusals) == REFUSALS:
            break
    return None, next(iter(refusals), "")


def _draw_all(sweep: Sweep, cell: Mapping[str, Any], stream: str) -> dict[str, Any]:
    """One value of each parameter. Each has its own stream, so pinning one leaves the others' draws as they were."""
    return compose(
        sweep,
        lambda name, domain: cell[name] if name in cell else _draw(domain, random.Random(f"{stream}/{name}")),
    )


def compose(sweep: Sweep, pick: Callable[[str, Domain], Any]) -> dict[str, Any]:
    """A value of each parameter whose `when` holds, in the space's order. `pick` gives it by the parameter's name and
    domain, which of divisors is a choice of those that the values picked before leave. Raises UserError where none is.
    """
    picked: dict[str, Any] = {}
    for name, domain in sweep.space.items():
        if domain.when and value_of(sweep, picked, domain.when[0]) not in domain.when[1]:
            continue
        if domain.kind == "divisors_of":
            domain = Domain("choice", _divisors(value_of(sweep, picked, domain.values[0]), domain))
        picked[name] = pick(name, domain)
    return picked


def value_of(sweep: Sweep, drawn: Mapping[str, Any], name: str) -> Any:
    """A parameter's value in a trial that is partly drawn: the base's, or its default, where it isn't swept."""
    return drawn.get(name, sweep.base.get(name, Config.model_fields[name].default))


def _divisors(whole: int, domain: Domain) -> tuple[int, ...]:
    of, low, high = domain.values
    divisors = tuple(d for d in range(max(1, low), min(high, whole) + 1) if whole % d == 0)
    if not divisors:
        raise UserError(f"{of}={whole} has no divisor between {low} and {high}")
    return divisors


def _size(domain: Domain) -> float:
    """How many values a domain holds."""
    if domain.kind in ("uniform", "loguniform", "divisors_of"):
        return math.inf
    return domain.values[1] - domain.values[0] + 1 if domain.kind == "randint" else len(domain.values)


def _draw(domain: Domain, rng: random.Random) -> Any:
    if domain.kind == "choice":
        return rng.choice(domain.values)
    low, high = domain.values
    if domain.kind == "randint":
        return rng.randint(low, high)
    if domain.kind == "loguniform":
        return rounded(math.exp(rng.uniform(math.log(low), math.log(high))), domain)
    return rounded(rng.uniform(low, high), domain)


def rounded(value: float, domain: Domain) -> float:
    """To six significant digits, within the domain's bounds."""
    low, high = domain.values
    return min(max(float(f"{value:.6g}"), low), high)
