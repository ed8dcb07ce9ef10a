"""What the entry points share: arguments, one-line errors, exit codes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from popgpt.config import Config, UserError


def parameters_help() -> str:
    """Every parameter with its default and meaning, as text for --help."""
    rows = [f"  {name}={shown(field.default)}" for name, field in Config.model_fields.items()]
    width = max(map(len, rows))
    fields = Config.model_fields.values()
    return "parameters:\n" + "\n".join(
        f"{row:<{width}}  {field.description}" for row, field in zip(rows, fields, strict=True)
    )


def shown(value: object) -> object:
    """A parameter's value as YAML has it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else value


def config_parser(name: str, description: str) -> argparse.ArgumentParser:
    """A parser for `popgpt.NAME CONFIG [key=value ...]`."""
    parser = argparse.ArgumentParser(
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
    paths = {name: str(Path(getattr(config, name)).resolve()) for name in ("out_dir", "data_dir")}
    if config.init_from not in ("scratch", "resume"):
        paths["init_from"] = str(Path(config.init_from).resolve())
    return config.model_copy(update=paths)


def run(main: Callable[[Sequence[str] | None], int | None]) -> None:
    """Run an entry point: 0 done, 2 a mistake the user can mend, 130 interrupted."""
    try:
        code = main(None)
    except UserError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)
