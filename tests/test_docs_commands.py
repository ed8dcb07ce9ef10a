"""What the pages show is what happens: their commands run and print what stands under them.

A block of commands is run in a folder with the shipped configs, the blocks of all pages one after the other, the
README's first. `sh` holds commands; `console` holds commands after `$ ` and what they print, where `...` stands for any
lines and a number for any number. An HTML comment on the line before a block says otherwise:

    <!-- slow: why -->      run by `make test-slow`; otherwise checked
    <!-- checked: why -->   its commands are parsed: options, parameters, files, make targets
    <!-- not run: why -->   left alone
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from popgpt.config import load_config, read_yaml
from popgpt.sweep.space import load_sweep
from popgpt.terminal import program
from popgpt.text.errors import UserError

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
HOME = "/home/me/popgpt"  # the clone of the pages
COMMAND = re.compile(r"(?:(?P<before>.*) \| )?(?:.* -- )?python -m popgpt\.(?P<module>[\w.]+) ?(?P<words>[^|>]*)")


class Block(NamedTuple):
    page: str
    line: int
    language: str
    mark: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    def steps(self) -> list[tuple[str, list[str]]]:
        """Each command with the lines that it prints."""
        steps: list[tuple[str, list[str]]] = []
        for line in re.sub(r" *\\\n *", " ", self.text).splitlines():
            if self.language == "sh":
                steps += [(line.strip(), [])] if line.strip() else []
            elif line.startswith("$ "):
                steps.append((line[2:], []))
            else:
                steps[-1][1].append(line)
        return steps


class Parsed(Exception):  # noqa: N818, no error
    """Arguments were parsed, and nothing else is to be done."""


def blocks() -> list[Block]:
    found, fence = [], None
    for page in PAGES:
        mark, text = "", []
        for number, line in enumerate(page.read_text().splitlines(), 1):
            if line.startswith("```") and fence is None:
                fence, text = (line[3:].strip(), number), []
            elif line.startswith("```"):
                found.append(Block(page.relative_to(ROOT).as_posix(), fence[1], fence[0], mark, "\n".join(text)))
                fence = None
            elif fence is not None:
                text.append(line)
            else:
                comment = re.fullmatch(r"<!-- (.*) -->", line)
                mark = comment[1] if comment else ""
    return found


BLOCKS = blocks()
COMMANDS = [block for block in BLOCKS if block.language in ("sh", "console") and not block.mark.startswith("not run: ")]
CHECKED = [block for block in COMMANDS if block.mark.startswith(("checked: ", "slow: "))]
RUN = [block for block in COMMANDS if not block.mark]
SLOW = [block for block in COMMANDS if block.mark.startswith("slow: ")]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory, empty_store: bytes) -> Path:
    """A folder as a clone is before the first command."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("configs", "search_spaces"):
        shutil.copytree(ROOT / name, folder / name)
    (folder / "mlflow.db").write_bytes(empty_store)
    return folder


@pytest.fixture
def here(clone: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(clone)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return clone


def test_every_block_is_of_a_known_kind() -> None:
    kinds = {"sh", "console", "yaml", "toml", "python", "text"}
    for block in BLOCKS:
        assert block.language in kinds or block.page == "docs/architecture.md", block.place
        if block.language in ("sh", "console") and block.mark:
            assert re.match(r"(slow|checked|not run): \w", block.mark), block.place


@pytest.mark.parametrize("block", RUN, ids=lambda block: block.place)
def test_commands_print_what_the_page_shows(block: Block, here: Path) -> None:
    for command, shown in block.steps():
        compare(block.place, command, shown, run_here(command), here)


@pytest.mark.slow
@pytest.mark.parametrize("block", SLOW, ids=lambda block: block.place)
def test_slow_commands_print_what_the_page_shows(block: Block, here: Path) -> None:
    for command, shown in block.steps():
        compare(block.place, command, shown, run_shell(command), here)


@pytest.mark.parametrize("block", CHECKED, ids=lambda block: block.place)
def test_commands_that_are_not_run_could_be(block: Block, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for command, _ in block.steps():
        if command.startswith("make "):
            target = command.split()[1]
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE), command
        elif match := COMMAND.fullmatch(command):
            check(match["module"], shlex.split(match["words"], comments=True), monkeypatch)
        else:
            assert command.split()[0] in ("#", "pip", "ray", "python", ".venv/bin/python", ".venv/bin/ruff"), command


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "yaml"], ids=lambda block: block.place)
def test_yaml_is_a_config_or_a_search_space(block: Block, here: Path) -> None:
    content = yaml.safe_load(block.text)
    path = here / ("search_spaces" if "space" in content else "configs") / "of_a_page.yaml"
    path.write_text(block.text)
    if "space" in content:
        load_sweep(path)
    else:
        load_config(path, [])


def check(module: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Parse the arguments of a command, and read the config or the space that they name with its parameters."""
    main = importlib.import_module(f"popgpt.{module}").main
    with monkeypatch.context() as patch:
        for method in ("parse_args", "parse_intermixed_args"):
            patch.setattr(argparse.ArgumentParser, method, parse_only(getattr(argparse.ArgumentParser, method)))
        with pytest.raises(Parsed) as caught:
            main(words)
    given = caught.value.args[0]
    path = getattr(given, "space", None) or getattr(given, "config", None)
    if path is not None:
        (load_sweep if "space" in read_yaml(path) else load_config)(path, given.overrides)


def parse_only(parse: Callable[..., argparse.Namespace]) -> Callable[..., None]:
    """`parse`, but that it raises what it has parsed."""

    def parsed(*args: Any, **options: Any) -> None:
        raise Parsed(parse(*args, **options))

    return parsed


def run_here(command: str) -> str:
    """What a command prints; popgpt's own run in this process, which spares their start."""
    match = COMMAND.fullmatch(command)
    if not match:
        return run_shell(command)
    printed = io.StringIO()
    given = io.TextIOWrapper(io.BytesIO(run_shell(match["before"]).encode())) if match["before"] else sys.stdin
    logger, shown = logging.getLogger("popgpt"), program._StderrHandler()
    logger.addHandler(shown)
    logger.setLevel(logging.INFO)
    stdin, sys.stdin = sys.stdin, given
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            importlib.import_module(f"popgpt.{match['module']}").main(shlex.split(match["words"]))
    except UserError as error:
        raise AssertionError(f"{command}: {error}") from error
    finally:
        sys.stdin = stdin
        logger.removeHandler(shown)
    return printed.getvalue()


def run_shell(command: str) -> str:
    done = subprocess.run(["bash", "-c", command], text=True, capture_output=True, timeout=600)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout + done.stderr


def compare(place: str, command: str, shown: list[str], printed: str, clone: Path) -> None:
    """Hold what a command printed to what the page shows, numbers apart."""
    told = [line for line in printed.replace(str(clone), HOME).splitlines() if not line.endswith(" ...")]
    if not shown and not command.startswith("python"):
        return
    wanted, lines = [form(line) for line in shown], [form(line) for line in told]
    message = f"{place}: {command}\n" + "\n".join(told)
    if "..." not in wanted:
        assert lines == wanted, message
        return
    rest = iter(lines)
    for line in wanted:
        assert line == "..." or line in rest, f"{message}\n\nis missing, or out of order: {line}"


def form(line: str) -> str:
    """A line with what differs between machines and times left out."""
    line = re.sub(r"\b[0-9a-f]{64}\b", "#", line)
    line = re.sub(r"\S+/python -m", "python -m", line)
    if re.fullmatch(r"[\d.+*/-]+=\S*", line):  # an answer of a model that has learned nothing
        return line.partition("=")[0]
    line = re.sub(r"-?\d[\d,]*(\.\d+)?(e[+-]?\d+)?", "#", line)
    line = re.sub(r"# (ms|s|min|h)\b", "# s", line)
    return " ".join(line.split())
