"""The search space: a YAML file checked against the config schema, and the trials drawn from it."""

from __future__ import annotations

import itertools
import logging
import math
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from popgpt.config import (
    ALIASES,
    DERIVED,
    FOREIGN,
    MOST,
    Config,
    Count,
    Role,
    Seed,
    by_foreign_name,
    derived,
    divisors,
    explain_error,
    make_config,
    merge,
    nearest_name,
    parse_overrides,
    path_problem,
    read_yaml,
    role_of,
)
from popgpt.metrics.metric import MetricName
from popgpt.text.errors import MOST_TOLD, Mistakes, UserError, named, shortened, told_together

KINDS = ("choice", "uniform", "loguniform", "randint", "grid", "divisors_of")
RANGES = ("uniform", "loguniform", "randint")
HEADS = frozenset({"d_head", "n_head"})
MOST_TRIALS, MOST_SEEDS = 5_000, 1_000
FEW = 1_000  # values of a range that are told one by one
# How many draws may come to nothing, for one trial and for all of a sweep, and how many of them may be refused.
DRAWS, ALL_DRAWS, REFUSALS, ALL_REFUSALS = 10_000, 20_000, 1_000, 5_000
# What other programs call the keys of a sweep, and the kinds of domains.
OTHER_KEYS = by_foreign_name(
    {
        "num_samples": "num_trials n_trials trials samples n_samples run_cap num_runs",
        "space": "parameters params param_space search_space hyperparameters",
        "config": "base base_config program",
        "metric": "objective target goal",
        "search": "method sampler search_alg algorithm",
        "asha": "scheduler pruner early_stopping early_terminate hyperband",
        "out_dir": "output_dir sweep_dir name",
        "points_to_evaluate": "points initial_points enqueue",
        "finalist_seeds": "repeats n_seeds num_seeds",
        "give resources: {max_concurrent: ...}": "max_concurrent_trials n_jobs parallel",
        "the metric says which end of it is best; leave it out": "mode",
        "grace_period": "min_t min_iter min_resource grace",
        "max_t": "max_iter max_resource",
        "reduction_factor": "eta",
        "cpus_per_trial": "cpus num_cpus cpu",
        "gpus_per_trial": "gpus num_gpus gpu",
    }
)
OTHER_KINDS = by_foreign_name(
    {
        "choice": "values options categorical choices in list",
        "grid": "grid_search",
        "loguniform": "log_uniform log_uniform_values log reciprocal qloguniform",
        "randint": "int integers range int_uniform",
        "uniform": "float quniform",
        "give {uniform: [lowest, highest]}, or loguniform, or randint": "min max low high",
        "a fixed value stands alone, without braces": "value fixed constant",
        "the kind is the key: {uniform: [lowest, highest]}": "distribution type",
    }
)

logger = logging.getLogger(__name__)

_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True, allow_inf_nan=False)


class Asha(BaseModel):
    """When a trial is judged, in iterations, and what follows."""

    model_config = _STRICT

    grace_period: Count = Field(default=100, description="first rung: no trial is judged before it")
    reduction_factor: Annotated[int, Field(ge=2, le=MOST)] = Field(
        default=3, description="one trial in so many goes on from a rung"
    )
    brackets: Count = Field(default=1, description="bracket s starts at grace_period * reduction_factor^s")
    max_t: Count | None = Field(default=None, description="where every trial ends; default the config's max_iters")
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
    max_concurrent: Count | Literal["auto"] = Field(default="auto", description="trials at a time; auto: what fits")


class SweepFile(BaseModel):
    """The keys of a search-space file."""

    model_config = _STRICT

    config: str = Field(min_length=1, description="the base config's file, relative to this one")
    metric: MetricName = Field(
        default="exact_match", description="what is best: highest exact_match or token_accuracy, or lowest val_loss"
    )
    num_samples: Annotated[int, Field(gt=0, le=MOST_TRIALS)] = Field(
        default=8, description="draws, for each grid point where there is a grid"
    )
    out_dir: str = Field(default="sweep", min_length=1, description="folder of the sweep")
    seed: Seed = Field(default=0, description="of the draws; the config's seed is the runs'")
    search: Literal["random", "optuna"] = Field(
        default="random", description="optuna: by TPE, from what the trials before it came to; takes popgpt[optuna]"
    )
    space: dict[str, Any] = Field(description="parameter: {choice: [...]}, a range, {grid: [...]} or a fixed value")
    points_to_evaluate: list[dict[str, Any]] = Field(
        default=[], description="swept parameters of the first trials; they count among num_samples"
    )
    asha: Asha | None = Field(default=Asha(), description="early stopping; null: every trial runs to its end")
    finalists: Annotated[int, Field(ge=0, le=MOST_TRIALS)] = Field(
        default=3, description="best trials that are trained to the full budget with more seeds; 0: none"
    )
    finalist_seeds: Annotated[int, Field(ge=0, le=MOST_SEEDS)] = Field(
        default=2, description="more seeds of each finalist; the best mean wins; 0: each with its own seed only"
    )
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
    own, run = _split(parse_overrides(overrides, _override_fields(), _task_of_base(raw, overrides, path)))
    domains = {key: value for key, value in run.items() if isinstance(value, dict) and set(KINDS) & value.keys()}
    raw = _overlay(raw, own)
    mistakes = Mistakes()
    space: dict[str, Domain] = {}
    fixed: dict[str, Any] = {}
    with mistakes.gathered():
        file = _validate(raw, source)
    with mistakes.gathered():
        given = raw.get("space")
        given = _overlay_space(given if isinstance(given, dict) else {}, domains, _replaced(run))
        space, fixed = _read_space(given, source)
    with mistakes.gathered():
        base = _read_base(raw, Path() if "config" in own else Path(path).parent)
    mistakes.tell()
    base = merge(merge(base, fixed), {key: value for key, value in run.items() if key not in domains})
    if base.setdefault("best_by", file.metric) != file.metric:
        wrong = f"best_by={shortened(base['best_by'])} should be the sweep's metric={file.metric!r}, or left out"
        raise UserError(f"{source}: {wrong}")
    with mistakes.gathered():
        config = make_config(base, source)
    with mistakes.gathered():
        _check_references(space, _without_heads(base, space), source)
    with mistakes.gathered():
        _check_no_grid(space, file.search, source)
    with mistakes.gathered():
        _check_trials(space, file.num_samples, source)
    with mistakes.gathered():
        _check_out_dir(file.out_dir, source)
    mistakes.tell()
    if config.init_from == "resume":
        raise UserError(f"{source}: init_from=resume is for one run; go on with a sweep by --resume")
    if config.always_save_checkpoint:
        raise UserError(f"{source}: always_save_checkpoint=True should be false: a sweep compares each trial's best")
    points = _read_points(file.points_to_evaluate, _replaced(run), space, base, source)
    names = ("metric", "num_samples", "out_dir", "seed", "asha", "resources", "finalists", "finalist_seeds", "search")
    own_keys = {name: getattr(file, name) for name in names}
    sweep = Sweep(source=source, base=base, space=space, points=points, max_t=config.max_iters, **own_keys)
    _check_seeds(sweep)
    return replace(sweep, max_t=_max_t(sweep))


def _read_base(raw: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The base config's parameters; none where the space does not say where they are, which is told elsewhere."""
    path = raw.get("config")
    if not isinstance(path, str) or not path:
        return {}
    base = read_yaml(folder / path)
    if "space" in base:
        raise UserError(f"{folder / path}: a search space, not a config; config should name the base config's file")
    return base


def _task_of_base(raw: Mapping[str, Any], overrides: Iterable[str], path: str | Path) -> Any:
    """What the base config says of its task; nothing where it can't be read, which is told elsewhere."""
    named_last = [word.removeprefix("config=") for word in overrides if word.startswith("config=")]
    try:
        base = _read_base({"config": named_last[-1]}, Path()) if named_last else _read_base(raw, Path(path).parent)
    except UserError:
        return None
    return base.get("task")


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
        if key not in known and ALIASES.get(name) is None and not name.startswith("task."):
            hint = nearest_name(key, known, FOREIGN | OTHER_KEYS)
            raise UserError(f"unknown key {named(key)}={shortened(value)}{hint}")
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
        errors = error.errors(include_url=False)
        for e in errors[:MOST_TOLD]:
            if lines and str(e["loc"][-1]).startswith("literal"):  # a number or auto: the number's error came before
                lines[-1] += f" or {e['ctx']['expected']}"
                continue
            nested = {"asha": Asha.model_fields, "resources": Resources.model_fields}
            fields = nested.get(str(e["loc"][0]), {}) if len(e["loc"]) > 1 else SweepFile.model_fields
            lines.append(explain_error(e, fields, source, OTHER_KEYS))
        raise told_together(lines, len(errors[MOST_TOLD:])) from None


def _replaced(run: Mapping[str, Any]) -> set[str]:
    return set(run) | (HEADS if HEADS & run.keys() else set())


def _read_space(given: Mapping[str, Any], source: str) -> tuple[dict[str, Domain], dict[str, Any]]:
    """The domains, and the values that are fixed in the space. Raises UserError."""
    space: dict[str, Domain] = {}
    fixed: dict[str, Any] = {}
    before: set[str] = set()
    mistakes = Mistakes()
    for key, spec in given.items():
        if mistakes.enough:
            break
        if not isinstance(key, str):  # which the file's schema refuses
            continue
        name = ALIASES.get(key, key)
        with mistakes.gathered():
            _check_name(name, key, before, source)
            before.add(name)
            if isinstance(spec, dict):
                space[name] = _read_domain(name, spec, source)
            elif isinstance(spec, list):
                wanted = f"should be a value or {{choice: {shortened(spec)}}}"
                raise UserError(f"{source}: space.{named(key)}={shortened(spec)} {wanted}")
            else:
                _check_value(name, spec, source)
                fixed[name] = spec
    mistakes.tell()
    return space, fixed


def _check_name(name: str, key: str, before: set[str], source: str) -> None:
    where = f"space.{named(key)}"
    if name.startswith("task."):
        name = "task"
    if name not in Config.model_fields:
        raise UserError(f"{source}: unknown parameter {where}{nearest_name(name, Config.model_fields)}")
    role = role_of(Config.model_fields[name])
    if role in (Role.PLACE, Role.RUN):
        raise UserError(f"{source}: {where} is no hyperparameter; set it in the config")
    if role is Role.DATA:
        raise UserError(f"{source}: {where} describes the data, which all trials share; set it in the config")
    if name in before or (name in HEADS and HEADS & before):
        other = name if name in before else next(iter(HEADS & before))
        raise UserError(f"{source}: {where} and space.{other} are one parameter; give one of them")


def _read_domain(name: str, spec: Mapping[str, Any], source: str) -> Domain:
    where = f"{source}: space.{name}"
    kinds = [key for key in spec if key not in ("when", "between")]
    if len(kinds) != 1 or kinds[0] not in KINDS:
        unknown = next((str(key) for key in kinds if key not in KINDS), "")
        hint = nearest_name(unknown, KINDS, OTHER_KINDS) if unknown else ""
        raise UserError(f"{where}={shortened(dict(spec))} should have one of the keys {', '.join(KINDS)}{hint}")
    kind, values = kinds[0], spec[kinds[0]]
    when = _read_when(spec["when"], where, source) if "when" in spec else None
    if kind == "divisors_of":
        return Domain(kind, _read_divisors(name, values, spec.get("between", [1, MOST]), where), when)
    if "between" in spec:
        raise UserError(f"{where}: between={shortened(spec['between'])} goes with divisors_of only")
    if not isinstance(values, list) or not values:
        wanted = "two bounds" if kind in RANGES else "values"
        raise UserError(f"{where}: {kind}={shortened(values)} should be a list of {wanted}")
    if kind in RANGES:
        _check_range(kind, values, where)
    for value in values:
        _check_value(name, value, source)
    if kind not in RANGES and len(set(values)) < len(values):
        raise UserError(f"{where}: {kind}={shortened(values)} should name each value once")
    if kind in ("uniform", "loguniform") and Config.model_fields[name].annotation is int:
        raise UserError(f"{where}: {kind} draws fractions; a whole number takes randint: {shortened(values)} or choice")
    if kind == "randint" and Config.model_fields[name].annotation is float:
        raise UserError(f"{where}: randint draws whole numbers; give uniform: {shortened(values)}")
    return Domain(kind, tuple(values), when)


def _read_divisors(name: str, of: Any, between: Any, where: str) -> tuple[str, int, int]:
    whole = _referred(of, f"{where}: divisors_of={shortened(of)}")
    if Config.model_fields[name].annotation is not int:
        raise UserError(f"{where}: divisors_of={shortened(of)} draws whole numbers, which {name} does not take")
    if not _is_size(whole):
        raise UserError(f"{where}: divisors_of={shortened(of)} should be a whole number, as d_model is")
    if whole == name:
        raise UserError(f"{where}: divisors_of={shortened(of)} should be another parameter")
    if not isinstance(between, list):
        raise UserError(f"{where}: between={shortened(between)} should be [the lowest, the highest value]")
    _check_range("between", between, where)
    if between[0] > MOST or between[1] < 1:
        raise UserError(f"{where}: between={shortened(between)} should hold a number from 1 to {MOST}")
    return whole, max(1, between[0]), min(MOST, between[1])


def _is_size(name: str) -> bool:
    """Whether a parameter is a whole number above 0 whose divisors can be told in no time: not so a seed."""
    field = Config.model_fields[name]
    most = min((getattr(part, "le", math.inf) for part in field.metadata), default=math.inf)
    least = max((getattr(part, bound, -1) for part in field.metadata for bound in ("ge", "gt")), default=-1)
    return field.annotation is int and least >= 0 and most <= MOST


def _read_when(given: Any, where: str, source: str) -> tuple[str, tuple[Any, ...]]:
    if not isinstance(given, dict) or len(given) != 1:
        raise UserError(f"{where}: when={shortened(given)} should be {{parameter: value}} or {{parameter: [values]}}")
    ((key, value),) = given.items()
    name = _referred(key, f"{where}: when={shortened(given)}")
    values = value if isinstance(value, list) else [value]
    for each in values:
        _check_value(name, each, source)
    if not values:
        raise UserError(f"{where}: when={shortened(given)} should name a value")
    return name, tuple(values)


def _referred(name: Any, where: str) -> str:
    known = ALIASES.get(str(name), str(name))
    if known not in Config.model_fields:
        raise UserError(f"{where} should name a parameter{nearest_name(known, Config.model_fields)}")
    return known


def _check_references(space: Mapping[str, Domain], base: Mapping[str, Any], source: str) -> None:
    """A parameter that depends on a swept one stands below it, so that drawing in order is enough."""
    above: set[str] = set()
    for name, domain in space.items():
        needed = {domain.when[0]} if domain.when else set()
        needed |= {domain.values[0]} if domain.kind == "divisors_of" else set()
        follows = {other: DERIVED.get(other, ()) for other in needed - space.keys() if base.get(other) is None}
        for other in sorted(follows):
            if name in follows[other]:
                raise UserError(f"{source}: space.{name} depends on {other}, which follows from it; give {other}")
        needed |= {origin for origins in follows.values() for origin in origins}
        for other in sorted((needed & space.keys()) - above):
            raise UserError(f"{source}: space.{name} depends on {other}, which should stand above it")
        above.add(name)


def _without_heads(base: Mapping[str, Any], space: Mapping[str, Domain]) -> dict[str, Any]:
    """The base's parameters that trials have: a swept head's width or number replaces the other one."""
    return {name: value for name, value in base.items() if not (name in HEADS and HEADS & space.keys())}


def _check_no_grid(space: Mapping[str, Domain], search: str, source: str) -> None:
    for name, domain in space.items() if search != "random" else ():
        if domain.kind == "grid":
            wanted = f"{{choice: {shortened(list(domain.values))}}} under search={search!r}"
            raise UserError(f"{source}: space.{name}: a grid leaves nothing to search for; give {wanted}")


def _check_trials(space: Mapping[str, Domain], num_samples: int, source: str) -> None:
    cells = math.prod(len(domain.values) for domain in space.values() if domain.kind == "grid")
    if cells * num_samples > MOST_TRIALS:
        trials = f"num_samples={num_samples} for each of the grid's {cells} points makes {cells * num_samples} trials"
        raise UserError(f"{source}: {trials}; at most {MOST_TRIALS} are possible")


def _check_out_dir(out_dir: str, source: str) -> None:
    problem = path_problem("out_dir", out_dir)
    if problem:
        raise UserError(f"{source}: {problem}")


def _check_seeds(sweep: Sweep) -> None:
    """The finalists' further seeds are seeds too."""
    last = largest(sweep, "seed") + sweep.finalist_seeds
    if sweep.finalists and last >= 2**63:
        wrong = f"finalist_seeds={sweep.finalist_seeds} after seed={last - sweep.finalist_seeds} should stay"
        raise UserError(f"{sweep.source}: {wrong} below {2**63}")


def _read_points(
    given: list[dict[str, Any]], replaced: set[str], space: Mapping[str, Domain], base: Mapping[str, Any], source: str
) -> tuple[dict[str, Any], ...]:
    """The points to evaluate, each once, less what the command line replaces."""
    if len(given) > MOST_TRIALS:
        raise UserError(f"{source}: points_to_evaluate holds {len(given)} points; at most {MOST_TRIALS} are possible")
    mistakes = Mistakes()
    points: dict[tuple[tuple[str, Any], ...], dict[str, Any]] = {}
    for point in given:
        if mistakes.enough:
            break
        with mistakes.gathered():
            left = {name: value for name, value in merge({}, point).items() if name not in replaced}
            read = _read_point(left, space, base, source)
            points.setdefault(_key(read), read)
    mistakes.tell()
    return tuple(points.values())


def _read_point(
    given: Mapping[str, Any], space: Mapping[str, Domain], base: Mapping[str, Any], source: str
) -> dict[str, Any]:
    """A point to evaluate, in the order of the space."""
    unknown = next((name for name in given if name not in space), None)
    if unknown is not None:
        hint = nearest_name(str(unknown), space)
        told = f"{named(str(unknown))}={shortened(given[unknown])} is not in the space{hint}"
        raise UserError(f"{source}: points_to_evaluate: {told}")
    make_config(merge(base, given), f"{source}: points_to_evaluate")
    return {name: given[name] for name in space if name in given}


def _check_range(kind: str, values: list[Any], where: str) -> None:
    whole = kind in ("randint", "between")
    number = int if whole else (int, float)
    told = f"{where}: {kind}={shortened(values)}"
    if len(values) != 2 or not all(isinstance(v, number) and not isinstance(v, bool) for v in values):
        wanted = "two whole numbers" if whole else "two numbers"
        raise UserError(f"{told} should be {wanted}, the lowest and the highest value")
    if not all(-math.inf < v < math.inf for v in values):
        raise UserError(f"{told} should be finite")
    if not values[0] < values[1]:
        raise UserError(f"{told} should have its lower bound first, below the upper")
    if kind == "loguniform" and values[0] <= 0:
        raise UserError(f"{told} should have bounds above 0")


@cache
def _adapter(name: str) -> TypeAdapter[Any]:
    annotation = Config.model_fields[name].rebuild_annotation()
    return TypeAdapter(annotation, config=ConfigDict(strict=True, allow_inf_nan=False))


def _check_value(name: str, value: Any, source: str) -> None:
    """Refuse what the config would refuse of this parameter alone, whatever the others are."""
    try:
        _adapter(name).validate_python(value)
    except ValidationError as error:
        first: dict[str, Any] = {**error.errors(include_url=False)[0], "loc": ("space", name)}
        raise UserError(explain_error(first, Config.model_fields, source)) from None


def _max_t(sweep: Sweep) -> int:
    """Where the longest trial ends. Raises UserError where ASHA's keys do not fit to it."""
    asha, source, longest = sweep.asha, sweep.source, largest(sweep, "max_iters")
    if asha is None:
        return longest
    if asha.max_t is not None and asha.max_t > longest:
        raise UserError(f"{source}: asha.max_t={asha.max_t} should be at most max_iters={longest}")
    max_t = asha.max_t or longest
    most = len(rungs(asha.model_copy(update={"brackets": 1}), max_t)[0])
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


def largest(sweep: Sweep, name: str) -> int:
    """The largest value of a whole number in any trial: of its domain, of the points to evaluate, and of the base
    where a trial may be without it. Of what is derived from swept parameters, or divides a number of a range, no less.
    """
    domain = sweep.space.get(name)
    values = [point[name] for point in sweep.points if name in point]
    if domain is None or _may_lack(sweep, name):
        values.append(value_of(sweep, {}, name))
        values.extend(largest(sweep, origin) for origin in DERIVED.get(name, ()) if origin in sweep.space)
    if domain and domain.kind == "divisors_of":
        of, _, high = domain.values
        wholes = _values(sweep, of)
        divided = {d for whole in wholes or () if whole > 0 for d in divisors(whole) if d <= high}
        values.append(min(high, largest(sweep, of)) if wholes is None else max(divided, default=1))
    elif domain:
        values.extend(domain.values)
    return int(max(values))


def _values(sweep: Sweep, name: str) -> set[Any] | None:
    """The values that a parameter may have in a trial; None where they are many, or follow from what is swept."""
    domain = sweep.space.get(name)
    values = {point[name] for point in sweep.points if name in point}
    if domain is None or _may_lack(sweep, name):
        if sweep.base.get(name) is None and any(origin in sweep.space for origin in DERIVED.get(name, ())):
            return None
        values.add(value_of(sweep, {}, name))
    if domain is None or domain.kind in ("choice", "grid"):
        return values | set(domain.values if domain else ())
    low, high = domain.values[-2:]
    return values | set(range(low, high + 1)) if domain.kind == "randint" and high - low < FEW else None


def _may_lack(sweep: Sweep, name: str) -> bool:
    """Whether there may be a trial without a value of its own of a swept parameter."""
    when = sweep.space[name].when
    if any(name not in point for point in sweep.points):
        return True
    values = _values(sweep, when[0]) if when else set()
    return values is None or (when is not None and not values <= set(when[1]))


def warnings(sweep: Sweep) -> list[str]:
    """What the space says that may not be what is meant, in words."""
    given = sweep.base.get("min_lr")
    swept = sweep.space.get("learning_rate")
    if swept is None or given is None or "min_lr" in sweep.space:
        return []
    rates = [*swept.values, *(point["learning_rate"] for point in sweep.points if "learning_rate" in point)]
    told = f"min_lr={given:g} is the same for each learning_rate from {min(rates):g} to {max(rates):g}"
    refused = "; trials of a learning_rate below it are refused" if min(rates) < given else ""
    return [f"{told}{refused}; left out, it would be a tenth of each"]


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
    draws = _Draws(sweep, {_key(trial) for trial in trials})
    for number in range(max(0, sweep.num_samples * len(cells) - len(trials))):
        trial = draws.next(cells[number % len(cells)], number)
        if trial is not None:
            trials.append(trial)
    if not trials:
        raise UserError(f"{sweep.source}: the config refuses every combination of the space: {draws.refusal}")
    if draws.given_up:
        count = f"{len(trials)} of {sweep.num_samples * len(cells)} trials were found"
        logger.warning("%s: few combinations of the space are new and accepted; %s", sweep.source, count)
    return trials


Key = tuple[tuple[str, Any], ...]


def _key(trial: Mapping[str, Any]) -> Key:
    return tuple(trial.items())


class _Draws:
    """Draws that are new and that the config accepts. A cell of the grid in which none was found has no more; and the
    draws that come to nothing are bounded for the sweep as a whole, so that none takes for ever.
    """

    def __init__(self, sweep: Sweep, seen: set[Key]):
        self.refusal = ""  # why the first was refused that was
        self.given_up = False
        self._sweep, self._seen = sweep, seen
        self._exhausted: set[Key] = set()
        self._wasted = self._refused = 0

    def next(self, cell: Mapping[str, Any], number: int) -> dict[str, Any] | None:
        """The first new draw that the config accepts, or None."""
        if self.given_up or (_key(cell) in self._exhausted and len(cell) < len(self._sweep.space)):
            return None
        size = math.prod(_size(domain) for name, domain in self._sweep.space.items() if name not in cell)
        tried: set[Key] = set()
        refused = 0
        for attempt in range(DRAWS if len(cell) < len(self._sweep.space) else 1):
            try:
                drawn = _draw_all(self._sweep, cell, f"{self._sweep.seed}/{number}/{attempt}")
                fresh = _key(drawn) not in self._seen and _key(drawn) not in tried
                tried.add(_key(drawn))
                if fresh:
                    self._sweep.config(drawn)
                    self._seen.add(_key(drawn))
                    return drawn
            except UserError as error:
                reason = str(error).splitlines()[0].removeprefix(f"{self._sweep.source}: ")
                self.refusal = self.refusal or reason
                refused += 1
                self._refused += 1
            self._wasted += 1
            self.given_up = self._wasted >= ALL_DRAWS or self._refused >= ALL_REFUSALS
            if len(tried) == size or refused == REFUSALS or self.given_up:
                break
        self._exhausted.add(_key(cell))
        return None


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
    if name in DERIVED and drawn.get(name) is None:
        return derived(merge(sweep.base, drawn))[name]
    return drawn.get(name, sweep.base.get(name, Config.model_fields[name].default))


def _divisors(whole: int, domain: Domain) -> tuple[int, ...]:
    of, low, high = domain.values
    found = tuple(d for d in divisors(whole) if low <= d <= high) if whole > 0 else ()
    if not found:
        raise UserError(f"{of}={whole} has no divisor between {low} and {high}")
    return found


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
