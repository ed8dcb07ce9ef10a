"""Every parameter of a run: the schema, and how its values are read, told and written."""

from popgpt.config.loading import (
    explain_error,
    flat,
    load_config,
    make_config,
    merge,
    parse_overrides,
    where_from,
)
from popgpt.config.names import ALIASES, FOREIGN, by_foreign_name, nearest_name
from popgpt.config.schema import (
    DERIVED,
    MOST,
    PLACE,
    SEPARATOR,
    Config,
    Count,
    Seed,
    derived,
    divisors,
    may_agree,
    path_problem,
)
from popgpt.config.yaml12 import dump_yaml, parse_yaml, read_yaml

__all__ = [
    "ALIASES",
    "DERIVED",
    "FOREIGN",
    "MOST",
    "PLACE",
    "SEPARATOR",
    "Config",
    "Count",
    "Seed",
    "by_foreign_name",
    "derived",
    "divisors",
    "dump_yaml",
    "explain_error",
    "flat",
    "load_config",
    "make_config",
    "may_agree",
    "merge",
    "nearest_name",
    "parse_overrides",
    "parse_yaml",
    "path_problem",
    "read_yaml",
    "where_from",
]
