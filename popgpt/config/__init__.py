"""Every parameter of a run: the schema, and how its values are read, told and written."""

from popgpt.config.derived import DERIVED, HEADS, divisors
from popgpt.config.loading import (
    COMMAND_LINE,
    explain_error,
    flat,
    load_config,
    make_config,
    merge,
    parse_overrides,
    where_from,
)
from popgpt.config.names import ALIASES, FOREIGN, by_foreign_name, nearest_name
from popgpt.config.roles import Role, role_of
from popgpt.config.schema import GROUPS, SEPARATOR, Config, derived, may_agree, parameters_of, path_problem
from popgpt.config.types import MOST, Count, Seed
from popgpt.config.yaml12 import as_yaml, dump_yaml, parse_yaml, read_yaml

__all__ = [
    "ALIASES",
    "COMMAND_LINE",
    "DERIVED",
    "FOREIGN",
    "GROUPS",
    "HEADS",
    "MOST",
    "SEPARATOR",
    "Config",
    "Count",
    "Role",
    "Seed",
    "as_yaml",
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
    "parameters_of",
    "parse_overrides",
    "parse_yaml",
    "path_problem",
    "read_yaml",
    "role_of",
    "where_from",
]
