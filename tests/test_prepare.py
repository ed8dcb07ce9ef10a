"""`python -m popgpt.prepare`: what it says, and how it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from popgpt import prepare
from popgpt.data.dataset import open_dataset
from popgpt.text.errors import UserError

SMALL = ["train_lines=500", "val_lines=20", "test_lines=10"]


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "config.yaml"
    path.write_text(f'data_dir: {tmp_path / "data"}\ntask: {{operations: "+-"}}\n')
    return str(path)


def test_it_says_what_it_built(config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare.main([config, *SMALL])
    out = capsys.readouterr().out
    meta = open_dataset(tmp_path / "data" / "calculator").meta
    assert f"500 lines  (+ {meta.by_kind['train']['+']}, - {meta.by_kind['train']['-']})" in out
    assert "14 characters and the newline: +-.0123456789=" in out
    assert "0 prompts in two splits" in out
    assert meta.fingerprint in out
    assert f"prepared: {tmp_path / 'data' / 'calculator'}" in out
    prepare.main([config, *SMALL])
    again = capsys.readouterr().out
    assert out.split("prepared")[0] == again.split("already there")[0]


def test_another_dataset_gives_way_only_to_force(config: str, tmp_path: Path) -> None:
    prepare.main([config, *SMALL])
    with pytest.raises(UserError, match=r"was built with task\.decimals=1, now it is task\.decimals=0"):
        prepare.main([config, *SMALL, "task.decimals=0"])
    prepare.main([config, "--force", *SMALL, "task.decimals=0"])
    assert open_dataset(tmp_path / "data" / "calculator").meta.options["task.decimals"] == 0


def test_damage_gives_way_to_force(config: str, tmp_path: Path) -> None:
    prepare.main([config, *SMALL])
    (tmp_path / "data" / "calculator" / "train.arrow").write_bytes(b"")
    with pytest.raises(UserError, match="damaged"):
        prepare.main([config, *SMALL])
    prepare.main([config, *SMALL, "--force"])
    assert len(open_dataset(tmp_path / "data" / "calculator").split("train")) == 500


def foreign(place: Path, kind: str) -> None:
    """Put something at `place` that is no dataset."""
    if kind == "file":
        place.write_text("mine")
    elif kind == "link":
        (place.parent / "elsewhere").mkdir()
        place.symlink_to(place.parent / "elsewhere")
    else:
        place.mkdir()
        (place / kind).write_text("mine")


def everything(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() if path.is_file() else "" for path in folder.rglob("*")}


@pytest.mark.parametrize("kind", ["thesis.txt", "file", "link", ".hidden"])
def test_force_replaces_nothing_but_a_dataset(tmp_path: Path, kind: str) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("a=1\nb=2\nc=3\n")
    foreign(tmp_path / "m", kind)
    before = everything(tmp_path)
    own = ["--from-text", str(lines), "--dataset", "m", "--data-dir", str(tmp_path)]
    with pytest.raises(UserError, match="not a dataset of popgpt: give another dataset name or data_dir") as refused:
        prepare.main([*own, "--force"])
    assert {"thesis.txt": "holds thesis.txt", "file": "a file", "link": "a link"}.get(kind, kind) in str(refused.value)
    if kind != "link":
        with pytest.raises(UserError) as plain:
            prepare.main(own)
        assert str(plain.value) == str(refused.value)
    assert everything(tmp_path) == before


def test_force_leaves_what_lies_beside_a_dataset(config: str, tmp_path: Path) -> None:
    prepare.main([config, *SMALL])
    notes = tmp_path / "data" / "calculator" / "notes.txt"
    notes.write_text("mine")
    prepare.main([config, *SMALL])
    with pytest.raises(UserError, match=r"holds notes\.txt"):
        prepare.main([config, *SMALL, "task.decimals=0", "--force"])
    assert notes.read_text() == "mine"


def test_force_leaves_the_arrow_files_of_others(config: str, tmp_path: Path) -> None:
    import pyarrow as pa

    place = tmp_path / "data" / "calculator"
    place.mkdir(parents=True)
    with pa.OSFile(str(place / "train.arrow"), "wb") as file, pa.ipc.new_file(file, pa.schema([])):
        pass
    with pytest.raises(UserError, match=r"whose train\.arrow is another program's"):
        prepare.main([config, *SMALL, "--force"])


@pytest.mark.parametrize("name", [".", "..", ".m"])
def test_a_dataset_has_the_name_of_a_folder(config: str, tmp_path: Path, name: str) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("a=1\nb=2\nc=3\n")
    before = everything(tmp_path)
    for arguments in (
        ["--from-text", str(lines), "--dataset", name, "--data-dir", str(tmp_path / "data"), "--force"],
        [config, *SMALL, f"dataset={name}", "--force"],
    ):
        with pytest.raises(UserError, match="does not begin with a dot"):
            prepare.main(arguments)
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a config"),
        (["--from-text", "-"], "--dataset NAME"),
        (["--from-text", "-", "--dataset", "a/b"], "dataset='a/b'"),
        (["x.yaml", "--from-text", "-"], "takes no config"),
        (["data_dir=X", "dataset=n", "--from-text", "-"], "no key=value; write --data-dir X --dataset n"),
        (["x.yaml", "--dataset", "a"], "write dataset=a"),
        (["missing.yaml"], "No such file"),
    ],
)
def test_what_cannot_be_asked(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        prepare.main(arguments)
    assert message in str(error.value)


def test_as_a_program(config: str, tmp_path: Path) -> None:
    def run(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "popgpt.prepare", *arguments]
        return subprocess.run(command, input=text, capture_output=True, text=True, check=False)

    refused = run(config, "train_lines=5000000")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "only 2000000 different prompts" in refused.stderr
    assert not (tmp_path / "data").exists()
    piped = run("--from-text", "-", "--dataset", "own", "--data-dir", str(tmp_path), text="a=1\nb=2\nc=3\n")
    assert (piped.returncode, piped.stderr) == (0, "")
    assert open_dataset(tmp_path / "own").meta.lines == {"train": 1, "val": 1, "test": 1}


def test_help_loads_no_arrow() -> None:
    code = (
        "import sys, popgpt.prepare as prepare; prepare._parser().format_help(); "
        "print({'pyarrow', 'rich', 'torch', 'ray', 'mlflow'} & sys.modules.keys())"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded == "set()\n"
