"""Tasks in a config: found by name, told what is wrong with them, and those of other packages as if they were ours."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from popgpt import train
from popgpt.config import Config, flat, load_config, make_config, merge, where_from
from popgpt.data.dataset import dataset_options, ensure_dataset, open_dataset
from popgpt.sweep.space import load_sweep
from popgpt.tasks.dates import Dates
from popgpt.tasks.registry import find_task, make_task, task_names
from popgpt.tasks.reverse import Reverse
from popgpt.terminal.arguments import parameters_help
from popgpt.text.errors import UserError
from popgpt.tracking.identity import params_of
from tests.golden import CALCULATOR

# The smallest task of another package: one file, and one line of its metadata.
DOUBLES = '''
"""Numbers and their doubles: `21=42`."""

from typing import Annotated, Literal

from pydantic import Field

from popgpt.tasks.base import NumberedTask


class Doubles(NumberedTask):
    name: Literal["doubles"] = "doubles"
    digits: Annotated[int, Field(ge=1, le=9)] = Field(4, description="digits of a number, at most")

    def sizes(self) -> list[int]:
        return [10**self.digits]

    def prompt(self, number: int) -> str:
        return str(number)

    def answer(self, prompt: str) -> str | None:
        return str(2 * int(prompt)) if prompt.isdecimal() else None
'''
Install = Callable[[str, str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a package of one module and its metadata where Python finds them."""

    def install(module: str, code: str, entry: str) -> None:
        metadata = tmp_path / "site" / f"{module}-1.2.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.2\n")
        (metadata / "entry_points.txt").write_text(f"[popgpt.tasks]\n{entry}\n")
        (tmp_path / "site" / f"{module}.py").write_text(code)
        monkeypatch.syspath_prepend(str(tmp_path / "site"))
        monkeypatch.delitem(sys.modules, module, raising=False)

    return install


@pytest.fixture
def doubles(install: Install) -> None:
    install("popgpt_doubles", DOUBLES, "doubles = popgpt_doubles:Doubles")


def test_our_tasks_are_found_by_the_names_of_their_files() -> None:
    assert [name for name in task_names() if find_task(name).__module__.startswith("popgpt.")] == [
        *("calculator", "dates", "reverse", "text")
    ]
    assert all(find_task(name)().name == name for name in ("calculator", "dates", "reverse", "text"))
    assert make_task("dates") == make_task({"name": "dates"}) == Dates()


def test_a_config_names_a_task_and_its_options() -> None:
    assert make_config({"task": "reverse"}).task == Reverse()
    assert make_config({"task": {"name": "reverse", "length": 5}}).task == Reverse(length=5)
    assert make_config({"task.name": "reverse", "task.length": 5}).task == Reverse(length=5)
    config = load_config(CALCULATOR, ["task.operations=-", "task.decimals={'-': 0}"])
    assert flat(config.model_dump()).items() >= {"task.operations": "-", "task.decimals": {"-": 0}}.items()
    assert load_config(CALCULATOR).task == make_task({"operations": "+-"})


def test_another_task_takes_none_of_the_options_of_the_one_before() -> None:
    config = load_config(CALCULATOR, ["task.name=reverse"])
    assert (config.task, config.dataset) == (Reverse(), "reverse")
    assert load_config(CALCULATOR, ["task=reverse", "task.alphabet=01", "task.length=3"]).task == Reverse(
        alphabet="01", length=3
    )
    assert load_config(CALCULATOR, ["task=calculator"]).task == load_config(CALCULATOR).task
    assert merge({"task": "reverse"}, {"task": {"length": 3}}) == {"task": {"name": "reverse", "length": 3}}
    assert load_config(CALCULATOR, ["task=reverse", "dataset=mine"]).dataset == "mine"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("task.name=revers", "command line: task.name='revers' is no task; did you mean reverse?"),
        ("task=chess", "command line: task.name='chess' is no task; the tasks are calculator, dates, reverse, text"),
        ("task=3", "command line: task=3 should be a name or a mapping, {name: ..., option: value}"),
        ("task.operatons=+", "command line: unknown parameter task.operatons='+'; did you mean operations?"),
        ("operations=+", "command line: unknown parameter operations='+'; give task: {operations: ...}"),
        ("task.operations=++", "command line: task: operations='++' should name each operation once"),
        ("task.decimals=12", "command line: task.decimals=12 should be at most 9"),
        ("task.signed=3", "command line: task.signed=3 should be true or false"),
    ],
)
def test_mistakes_are_told_in_a_line(word: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        load_config(CALCULATOR, [word])
    assert str(refused.value) == said


def test_options_are_told_by_help_by_tracking_and_by_where_they_come_from() -> None:
    told = parameters_help()
    assert "options of task=reverse:\n  task.length=8 " in told
    assert all(f"task.{name}=" in told for name in find_task("calculator").model_fields if name != "name")
    params = params_of(load_config(CALCULATOR).model_dump())
    assert (params["task.name"], params["task.operations"], params["task.decimals"]) == ("calculator", "+-", "1")
    sources = where_from(CALCULATOR, ["task.decimals=0"])
    assert (sources["task.operations"], sources["task.decimals"]) == ("file", "command line")
    assert (sources["dataset"], sources.get("task.signed")) == ("derived", None)


def test_a_search_space_may_not_sweep_what_decides_the_dataset(tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    for key in ("task", "task.decimals"):
        space.write_text(f"config: {CALCULATOR}\nspace:\n  {key}: {{choice: [0, 1]}}\n")
        with pytest.raises(UserError, match=f"space.{key} describes the data, which all trials share"):
            load_sweep(space)
    space.write_text(f"config: {CALCULATOR}\nspace:\n  learning_rate: {{choice: [0.1, 0.2]}}\n")
    assert load_sweep(space, ["task.operations=-"]).config().task == make_task({"operations": "-"})
    assert load_sweep(space, ["config.task.name=reverse", "task.alphabet=01"]).config().task == Reverse(alphabet="01")


def test_a_dataset_of_any_task_is_made_and_is_refused_to_others(tmp_path: Path) -> None:
    given = {"data_dir": str(tmp_path), "train_lines": 300, "val_lines": 20, "test_lines": 20}
    dataset = ensure_dataset(make_config({**given, "task": "reverse"}))
    assert dataset.path == tmp_path / "reverse"
    assert (dataset.meta.task, dataset.meta.options["task.length"], dataset.meta.symbols) == ("reverse", 8, "")
    prompts = [line.partition("=")[0] for line in dataset.split("train").lines()]
    assert dataset.split("train").contains([*prompts, "zzzzzz"], Reverse()).tolist() == [True] * 300 + [False]
    assert dataset.split("val") is dataset.split("val")
    with pytest.raises(UserError, match=r"built with task\.length=8, now it is task\.length=7: give another"):
        ensure_dataset(make_config({**given, "task": {"name": "reverse", "length": 7}}))
    with pytest.raises(UserError, match="holds lines of task=reverse, not of task=text: give task=reverse, or another"):
        ensure_dataset(make_config({**given, "task": "text", "dataset": "reverse"}))


def test_an_older_dataset_is_to_be_prepared_again(tmp_path: Path) -> None:
    config = make_config({"data_dir": str(tmp_path), "train_lines": 300, "val_lines": 20, "test_lines": 20})
    file = ensure_dataset(config).path / "train.arrow"
    file.write_bytes(file.read_bytes().replace(b'"format": 2', b'"format": 1'))
    with pytest.raises(UserError, match="dataset of format 1, this popgpt reads 2: prepare it again"):
        open_dataset(file.parent)


@pytest.mark.usefixtures("doubles")
def test_a_task_of_another_package_trains_as_ours_do(tiny: Callable[..., Config], tmp_path: Path) -> None:
    assert "task.digits=4" in parameters_help()
    assert "doubles" in task_names()
    path = tmp_path / "config.yaml"
    path.write_text(f"task: {{name: doubles, digits: 3}}\nout_dir: {tmp_path / 'run'}\ndata_dir: {tmp_path / 'data'}\n")
    tiny_words = ["train_lines=400", "val_lines=50", "test_lines=50", "max_iters=2", "eval_interval=2", "d_model=16"]
    words = [*tiny_words, "d_head=8", "n_layer=1", "batch_size=4", "device=cpu", "mlflow_log=false"]
    assert train.main([str(path), "--local", *words]) == 0
    assert (tmp_path / "run" / "ckpt.pt").exists()
    dataset = open_dataset(tmp_path / "data" / "doubles")
    assert dataset.meta.options.items() >= dataset_options(load_config(path, words)).items()
    assert all(int(answer) == 2 * int(n) for n, answer in (x.split("=") for x in dataset.split("train").lines()))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "import nothing_of_this_name",
            "cannot be loaded: ModuleNotFoundError: No module named 'nothing_of_this_name'",
        ),
        ("Doubles = 3", "is no popgpt.tasks.base.Task whose name is 'broken' by default"),
        (DOUBLES, "is no popgpt.tasks.base.Task whose name is 'broken' by default"),
    ],
)
def test_a_broken_task_is_told_in_a_line_and_disturbs_no_other(install: Install, code: str, said: str) -> None:
    install("popgpt_broken", code, "broken = popgpt_broken:Doubles")
    with pytest.raises(UserError) as refused:
        make_config({"task": "broken"})
    assert str(refused.value) == f"config: task.name='broken': popgpt_broken:Doubles of popgpt_broken 1.2 {said}"
    assert "task.length=8" in parameters_help()
    assert make_config({"task": "reverse"}).task == Reverse()


def test_rows_are_packed_once(tmp_path: Path) -> None:
    from popgpt.data.batches import make_rows

    config = make_config({"data_dir": str(tmp_path), "train_lines": 300, "val_lines": 20, "test_lines": 20})
    dataset = ensure_dataset(config)
    rows = make_rows(config, dataset, "val", 0)
    assert make_rows(config, dataset, "val", 0) is rows
    assert make_rows(config, dataset, "val", 1) is not rows
    others = [make_rows(config, dataset, "val", seed) for seed in range(2, 12)]
    assert np.array_equal(make_rows(config, dataset, "val", 0).at(np.arange(3)).tokens, rows.at(np.arange(3)).tokens)
    assert make_rows(config, dataset, "val", 11) is others[-1]
