"""A search-space file: read, overridden by key=value words, and checked whole before a trial starts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from popgpt.config import (
    ALIASES,
    COMMAND_LINE,
    DERIVED,
    FOREIGN,
    HEADS,
    Config,
    Role,
    explain_error,
    flat,
    make_config,
    merge,
    nearest_name,
    parse_overrides,
    path_problem,
    read_yaml,
    role_of,
)
from popgpt.config import where_from as config_where_from
from popgpt.sweep.domain import KINDS, Domain, check_value, read_domain
from popgpt.sweep.draws import largest, trial_key
from popgpt.sweep.schema import MOST_TRIALS, OTHER_KEYS, Asha, Sweep, SweepFile, TrialResources, rungs
from popgpt.text.errors import MOST_TOLD, Mistakes, UserError, combine_errors, named, shortened


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
    config = _check_together(file, space, base, source)
    points = _read_points(file.points_to_evaluate, _replaced(run), space, base, source)
    names = ("metric", "num_samples", "out_dir", "seed", "asha", "resources", "finalists", "finalist_seeds", "search")
    own_keys = {name: getattr(file, name) for name in names}
    sweep = Sweep(source=source, base=base, space=space, points=points, max_t=config.max_iters, **own_keys)
    _check_seeds(sweep)
    return replace(sweep, max_t=_max_t(sweep))


def _check_together(file: SweepFile, space: Mapping[str, Domain], base: Mapping[str, Any], source: str) -> Config:
    """Return the base's config, where the parts of a sweep fit together. Raises UserError with all that do not."""
    mistakes = Mistakes()
    with mistakes.gathered():
        config = make_config(base, source)
    with mistakes.gathered():
        _check_references(space, _without_heads(base, space), source)
    with mistakes.gathered():
        _check_no_grid(space, file.search, source)
    with mistakes.gathered():
        _check_trials(space, file.num_samples, source)
    with mistakes.gathered():
        if problem := path_problem("out_dir", file.out_dir):
            raise UserError(f"{source}: {problem}")
    mistakes.tell()
    if config.init_from == "resume":
        raise UserError(f"{source}: init_from=resume is for one run; go on with a sweep by --resume")
    if config.always_save_checkpoint:
        raise UserError(f"{source}: always_save_checkpoint=True should be false: a sweep compares each trial's best")
    return config


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
    nested = {"asha": Asha.model_fields, "resources": TrialResources.model_fields, "config": Config.model_fields}
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
            nested = {"asha": Asha.model_fields, "resources": TrialResources.model_fields}
            fields = nested.get(str(e["loc"][0]), {}) if len(e["loc"]) > 1 else SweepFile.model_fields
            lines.append(explain_error(e, fields, source, OTHER_KEYS))
        raise combine_errors(lines, len(errors[MOST_TOLD:])) from None


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
                space[name] = read_domain(name, spec, source)
            elif isinstance(spec, list):
                wanted = f"should be a value or {{choice: {shortened(spec)}}}"
                raise UserError(f"{source}: space.{named(key)}={shortened(spec)} {wanted}")
            else:
                check_value(name, spec, source)
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
            points.setdefault(trial_key(read), read)
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


def where_from(sweep: Sweep, path: str, overrides: Iterable[str]) -> dict[str, str]:
    """For each parameter: swept, command line, search space, or where the base config has it from."""
    words = dict(word.partition("=")[::2] for word in overrides)
    typed = {key.removeprefix("config.") for key in words if key not in SweepFile.model_fields}
    base = words.get("config") or Path(path).parent / read_yaml(path)["config"]
    sources = config_where_from(base)
    for name in flat(sweep.base):
        if name in typed:
            sources[name] = COMMAND_LINE
        elif sources.get(name) != "file":
            sources[name] = "search space"
    return sources | dict.fromkeys(sweep.space, "swept")


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
