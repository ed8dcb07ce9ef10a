"""The arguments that commands share: a config, its parameters, their help."""

from __future__ import annotations

import argparse
from typing import NoReturn

from popgpt.config import Config, as_yaml
from popgpt.storage import folder
from popgpt.storage.stores import is_uri, refuse_secrets
from popgpt.tasks.registry import task_fields, task_names
from popgpt.text.errors import UserError
from popgpt.text.printable import line as one_line


class Parser(argparse.ArgumentParser):
    """Complains of arguments, which it repeats, in lines that may be shown."""

    def error(self, message: str) -> NoReturn:
        super().error(one_line(message))


def parameters_help() -> str:
    """Every parameter, and every option of the tasks, with its default and meaning, as text for --help."""
    sections = {"parameters": Config.model_fields}
    for name in task_names():
        options = {f"task.{option}": field for option, field in task_fields(name).items() if option != "name"}
        if options:
            sections[f"options of task={name}"] = options
    told = {
        title: {f"  {name}={as_yaml(field.default)}": field for name, field in fields.items()}
        for title, fields in sections.items()
    }
    width = max(len(row) for rows in told.values() for row in rows)
    return "\n".join(
        line
        for title, rows in told.items()
        for line in (f"{title}:", *(f"{row:<{width}}  {field.description}" for row, field in rows.items()))
    )


def config_parser(name: str, description: str) -> Parser:
    """A parser for `popgpt.NAME CONFIG [key=value ...]`."""
    parser = Parser(
        prog=f"python -m popgpt.{name}",
        description=description,
        epilog=parameters_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", help="YAML file of parameters")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="parameters that replace the file's")
    return parser


def absolute(config: Config) -> Config:
    """`config` with absolute folders: Ray's processes start elsewhere."""
    refuse_secrets(config.data_dir, "data_dir: ")
    if is_uri(config.data_dir):
        raise UserError(f"data_dir={config.data_dir} should be a path: datasets are mapped into memory")
    names = ["out_dir", "data_dir", *(["init_from"] if config.init_from not in ("scratch", "resume") else [])]
    return config.model_copy(update={name: folder.absolute(getattr(config, name), f"{name}: ") for name in names})
