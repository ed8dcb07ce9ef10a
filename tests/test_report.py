from __future__ import annotations

import json
from pathlib import Path

import pytest

from popgpt import report
from popgpt.sweep import ranking
from popgpt.sweep.report.files import write_report_or_warn
from tests.sweep.report.contents import DONE


def test_a_report_is_made_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = {**ranking.summary(DONE.trials, DONE.metric), "best": DONE.best, "sweep": DONE.definition}
    (tmp_path / "sweep.json").write_text(json.dumps(content))
    report.main([str(tmp_path)])
    assert capsys.readouterr().out == f"report: {tmp_path / 'report.html'}\n"
    assert "81.25%" in (tmp_path / "report.html").read_text()
    assert "81.25%" in (tmp_path / "report.md").read_text()


def test_a_report_that_fails_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "sweep.json").write_text('{"trials": [{}]}')
    assert not write_report_or_warn(tmp_path)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"the report was not made: UserError: {tmp_path}/sweep.json: metric is missing" in caplog.text
