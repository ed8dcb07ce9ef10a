"""Whether a run's folder is the one that was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from popgpt.storage.folder import Folder
from popgpt.text.errors import UserError
from popgpt.training import folder


def test_a_folder_that_all_nodes_share_is_known_by_its_mark(tmp_path: Path) -> None:
    token = folder.mark(Folder(tmp_path))
    folder.check_shared(Folder(tmp_path), token, "10.0.0.2")


@pytest.mark.parametrize("there", ["nothing", "an empty folder", "a folder of an earlier run"])
def test_a_folder_that_another_node_does_not_share_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str
) -> None:
    monkeypatch.setattr(folder, "PATIENCE_SECONDS", 0.1)
    token = folder.mark(Folder(tmp_path / "driver"))
    theirs = Folder(tmp_path / "worker")
    if there == "an empty folder":
        theirs.make()
    elif there == "a folder of an earlier run":
        folder.mark(theirs)
    with pytest.raises(UserError) as refused:
        folder.check_shared(theirs, token, "10.0.0.2")
    assert str(refused.value) == (
        f"out_dir={tmp_path}/worker on node 10.0.0.2 is not the folder that the driver sees: "
        f"give one that all nodes share, or a URI such as s3://bucket/run"
    )
