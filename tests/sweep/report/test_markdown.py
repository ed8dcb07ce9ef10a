from __future__ import annotations

from dataclasses import replace

from popgpt.sweep.report.markdown import escaped, markdown
from tests.sweep.report.contents import DONE, FINALISTS, NOTHING


def test_the_text_has_the_numbers_of_the_sweep() -> None:
    text = markdown(replace(DONE, finalists=FINALISTS), NOTHING, "sweeps/x")
    assert "**Trial 0000 answers 81.25% of the test split exactly" in text
    assert "| 1 | 0000 | 0.005 | muon | - | 87.5% (78.8% to 88.8%) | 100 | completed |" in text
    assert "| - | 0 | failed: RuntimeError: &lt;b&gt;&amp; |" not in text
    assert "| failed: RuntimeError: &lt;b&gt;&amp; |" in text
    assert "110 iterations of 300. ASHA saved 90 (30%). 100 were not run" in text
    assert "| 10 | 2 | 1 |" in text


def test_markdown_shows_text_as_it_is() -> None:
    assert escaped("a|b\n_c_ d_e `<x>`") == r"a\|b \_c\_ d_e \`&lt;x&gt;\`"
