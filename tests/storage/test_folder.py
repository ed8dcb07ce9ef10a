"""A folder is the same thing on this machine, in a store, and in a file system where files grow under their name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from pyarrow.fs import LocalFileSystem

from popgpt.config import load_config
from popgpt.storage.folder import FULL, Folder, LineFile, merge_pieces, parse_json
from popgpt.storage.stores import StoreError, describe_complaint
from popgpt.terminal.arguments import absolute
from popgpt.text.errors import UserError
from tests.s3 import Server

ODD = "odd name+ü%20&?=#.txt"


@pytest.fixture(params=["path", "file URI", "s3", "s3 with a query", "another file system"])
def folder(
    request: pytest.FixtureRequest, tmp_path: Path, store: str, s3_server: Server, monkeypatch: pytest.MonkeyPatch
) -> Folder:
    """A folder that is not there yet."""
    if request.param == "path":
        return Folder(tmp_path / "run")
    if request.param == "file URI":
        return Folder(f"file://{tmp_path}/run")
    if request.param == "s3":
        return Folder(store)
    if request.param == "s3 with a query":
        monkeypatch.delenv("AWS_ENDPOINT_URL")
        return Folder(store + s3_server.query)
    other = Folder("hdfs://host/run")
    other.__dict__["_store"] = (LocalFileSystem(), str(tmp_path / "other"))
    return other


def test_what_is_written_is_read(folder: Folder) -> None:
    folder.make()
    folder.write("a.pt", b"first")
    assert folder.read("a.pt") == b"first"
    folder.write("a.pt", b"2nd")
    assert folder.read("a.pt") == b"2nd"
    folder.write("empty", b"")
    assert folder.read("empty") == b""
    assert folder.names() == {"a.pt", "empty"}, "nothing is left of how they were written"


def test_a_large_file_is_written_whole(folder: Folder) -> None:
    """Larger than a part of an upload in parts."""
    content = os.urandom(1000) * 12_000
    folder.make()
    folder.write("large", content)
    assert folder.read("large") == content


def test_a_copy_replaces_and_does_not_follow(folder: Folder) -> None:
    folder.make()
    folder.write("a", b"1")
    folder.write("b", b"old")
    folder.copy("a", "b")
    folder.write("a", b"2")
    assert (folder.read("a"), folder.read("b")) == (b"2", b"1")
    assert folder.names() == {"a", "b"}


def test_removing_is_of_what_is_there_or_not(folder: Folder) -> None:
    folder.make()
    folder.write("a", b"1")
    folder.remove("a")
    folder.remove("a")
    assert folder.names() == set()


def test_a_folder_may_be_made_twice(folder: Folder) -> None:
    folder.make()
    folder.write("a", b"1")
    folder.make()
    assert folder.names() == {"a"}


def test_a_name_that_is_not_there_is_told(folder: Folder) -> None:
    for there in (False, True):
        with pytest.raises(FileNotFoundError):
            folder.read("a")
        with pytest.raises(FileNotFoundError):
            folder.copy("a", "b")
        if not there:
            folder.make()


def test_a_folder_that_is_not_there_is_empty(folder: Folder) -> None:
    assert folder.names() == set()
    assert not folder.is_file()
    folder.remove("a")


def test_names_may_be_odd(folder: Folder) -> None:
    folder.make()
    folder.write(ODD, b"odd")
    folder.copy(ODD, f"{ODD}.2")
    assert folder.names() == {ODD, f"{ODD}.2"}
    assert folder.read(f"{ODD}.2") == b"odd"
    folder.remove(ODD)
    assert folder.names() == {f"{ODD}.2"}


@pytest.mark.parametrize("folder", ["path", "s3", "s3 with a query"], indirect=True)
def test_a_file_and_a_folder_in_it_are_found_by_where_they_are(folder: Folder) -> None:
    folder.make()
    folder.write(ODD, b"odd")
    file = Folder(folder.at(ODD))
    assert file.is_file()
    assert (file.name, file.parent.where) == (ODD, folder.where)
    assert (folder / ODD).where == file.where
    below = folder / "below"
    below.make()
    below.write("a", b"1")
    assert not below.is_file()
    assert folder.names() == {ODD, "below"}
    assert (below.name, below.parent.read(ODD)) == ("below", b"odd")


def test_a_uri_is_taken_apart_before_its_query() -> None:
    folder = Folder("s3://bucket/run/?region=eu-west-1&scheme=http")
    assert folder.where == "s3://bucket/run?region=eu-west-1&scheme=http"
    assert folder.at("ckpt.pt") == "s3://bucket/run/ckpt.pt?region=eu-west-1&scheme=http"
    assert (folder.name, folder.parent.where) == ("run", "s3://bucket?region=eu-west-1&scheme=http")
    assert Folder("s3://bucket").at("a") == "s3://bucket/a"


@pytest.mark.parametrize("name", ["out_dir", "init_from", "data_dir"])
@pytest.mark.parametrize(
    "uri",
    [
        *("s3://AKIA:hidden@bucket/run", "s3://AKIA:aws/hidden/key@bucket/run", "s3://bucket/run?secret_key=hidden"),
        "abfs://f:hidden@account/run",
    ],
)
def test_a_key_in_a_uri_is_refused_and_not_shown(tmp_path: Path, name: str, uri: str) -> None:
    (tmp_path / "c.yaml").write_text(f"{name}: '{uri}'\n")
    with pytest.raises(UserError, match=f"^{name}: .* should hold no key.*set AWS_ACCESS_KEY_ID") as refused:
        absolute(load_config(tmp_path / "c.yaml"))
    assert "hidden" not in str(refused.value)
    with pytest.raises(UserError, match="should hold no key") as refused:
        Folder(uri)
    assert "hidden" not in str(refused.value)


def test_datasets_are_on_disks(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("data_dir: s3://bucket/data\n")
    with pytest.raises(UserError, match="data_dir=s3://bucket/data should be a path"):
        absolute(load_config(tmp_path / "c.yaml"))


@pytest.mark.parametrize("act", [Folder.make, Folder.names, Folder.is_file, lambda folder: folder.read("a")])
def test_a_file_system_that_there_is_not_is_one_line(act: Callable[[Folder], object]) -> None:
    with pytest.raises(StoreError, match=r"^Unrecognized filesystem type in URI: s4://bucket/run$"):
        act(Folder("s4://bucket/run"))


def test_a_complaint_is_one_line_with_what_to_do_first() -> None:
    words = "When testing: AWS Error ACCESS_DENIED during HeadBucket operation: No."
    said = describe_complaint(f"{words} (Request ID: x)\nmore")
    assert said.startswith("the store refuses access; AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY should be")
    assert said.endswith(f"({words})")
    assert describe_complaint("something else\nat length") == "something else"


def test_a_file_of_lines_grows(folder: Folder) -> None:
    folder.make()
    file, lines = LineFile(folder, "rows.jsonl"), [f"line {number}\n" for number in range(FULL + 4)]
    file.replace(lines[:2])
    for number, line in enumerate(lines[2:], 3):
        file.append(line)
        file.sync(len(file))
        assert folder.read_lines("rows.jsonl").decode() == "".join(lines[:number])
    file.sync(len(file), final=True)
    assert folder.names() == {"rows.jsonl"}
    assert folder.read("rows.jsonl").decode() == "".join(lines)
    file.replace(lines[:2])
    file.append(lines[2])
    file.sync(len(file), final=True)
    assert folder.read("rows.jsonl").decode() == "".join(lines[:3]), "a run that went on and is complete"
    file.replace(lines[:1])
    assert (folder.names(), folder.read("rows.jsonl").decode()) == ({"rows.jsonl"}, lines[0])


class Killed(BaseException):
    pass


@pytest.fixture
def elsewhere(tmp_path: Path) -> Folder:
    """A folder of a file system that is no path here."""
    other = Folder("hdfs://host/run")
    other.__dict__["_store"] = (LocalFileSystem(), str(tmp_path / "other"))
    other.make()
    return other


def grow(folder: Folder, count: int, a_time: int = 1) -> None:
    """Keep `count` lines in a new file, so many at a time."""
    file = LineFile(folder, "rows.jsonl")
    file.replace([])
    for number in range(count):
        file.append(f"line {number}\n")
        if (number + 1) % a_time == 0:
            file.sync(len(file))


def test_a_kill_between_any_two_changes_of_a_store_loses_no_line(
    elsewhere: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was kept before is there, in its place, and nothing else but what was being kept."""
    monkeypatch.setattr("popgpt.storage.folder.FULL", 3)
    count = 3 * 3 + 3
    whole = [f"line {number}\n" for number in range(count)]
    for fatal in range(1, 200):
        changes, kept = 0, 0

        def change(act: Callable[..., None], *arguments: object, last: int = fatal) -> None:
            nonlocal changes
            changes += 1
            if changes == last:
                raise Killed
            act(elsewhere, *arguments)

        with monkeypatch.context() as patched:
            for name in ("write", "remove"):
                act = getattr(Folder, name)
                patched.setattr(Folder, name, lambda folder, *words, act=act: change(act, *words))
            file = LineFile(elsewhere, "rows.jsonl")
            try:
                file.replace([])
                for kept in range(count):
                    file.append(whole[kept])
                    file.sync(kept + 1)
            except Killed:
                pass
            else:
                break
        found = elsewhere.read_lines("rows.jsonl").decode() if changes > 1 else ""
        assert found in ("".join(whole[:kept]), "".join(whole[: kept + 1])), fatal
        LineFile(elsewhere, "rows.jsonl").replace([])
        assert elsewhere.names() == {"rows.jsonl"}
    assert changes > count, "the last one was not killed, and had removed some"


def test_what_a_growing_file_costs_a_store_is_a_few_times_its_size(
    elsewhere: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    write = Folder.write

    def counted(folder: Folder, name: str, content: bytes) -> None:
        sent.append(len(content))
        write(folder, name, content)

    monkeypatch.setattr(Folder, "write", counted)
    for count, powers in ((FULL, 2), (FULL**2, 3), (300, 3)):
        sent.clear()
        grow(elsewhere, count)
        size = len(elsewhere.read_lines("rows.jsonl"))
        assert sum(sent) <= powers * size
        assert len(elsewhere.names()) <= powers * FULL


def test_pieces_of_a_size_become_one_up_to_any_size() -> None:
    pieces: list[tuple[int, int]] = []
    for number in range(FULL**3):
        pieces = merge_pieces([*pieces, (number, 0)])
        powers = [power for _, power in pieces]
        assert powers == sorted(powers, reverse=True)
        assert max(powers.count(power) for power in powers) < FULL
    assert pieces == [(0, 3)]


def test_a_piece_that_follows_nothing_is_no_line(elsewhere: Folder) -> None:
    for name, content in (("", b"a\nb\n"), ("-1", b"B\n"), ("-2", b"c\n"), ("-4", b"e\n"), ("-x", b"x\n")):
        elsewhere.write(f"rows{name}.jsonl", content)
    assert elsewhere.read_lines("rows.jsonl") == b"a\nB\nc\n"
    with pytest.raises(FileNotFoundError):
        elsewhere.read_lines("other.jsonl")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not valid JSON: Expecting value"),
        (b'{"a": ', "not valid JSON: Expecting value"),
        (b"\xff", "not UTF-8 text"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"a": ' * 100_000, "nested too deep"),
        (b"1" * 5000, "not valid JSON: a number of 5000 digits"),
    ],
)
def test_what_is_no_json_is_one_line(content: bytes, said: str) -> None:
    with pytest.raises(UserError, match=f"^x.json: .*{said}") as told:
        parse_json(content, "x.json")
    assert "\n" not in str(told.value)
    assert parse_json(b"[NaN, -Infinity, 1e999, 0.5]", "x.json") == [None, None, None, 0.5]
