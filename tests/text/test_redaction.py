"""No secret of an address or of the environment is shown, wherever it stands."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from popgpt.terminal import program
from popgpt.text.redaction import one_line, redact_uri, redacted, secrets, without_secrets

ADDRESSES = [
    ("http://user:CANARY@host:5000/x", "http://user:***@host:5000/x", "http://host:5000/x"),
    ("https://CANARY@host", "https://***@host", "https://host"),
    ("https://CANARY:@host", "https://***:@host", "https://host"),
    ("http://user:a/CANARY@host", "http://user:***@host", "http://host"),
    ("http://host:5000/?token=CANARY", "http://host:5000/?token=***", "http://host:5000/"),
    ("http://host/x?a=1&api_key=CANARY&b=2", "http://host/x?a=1&api_key=***&b=2", "http://host/x?a=1&b=2"),
    ("http://host/#access_token=CANARY", "http://host/#***", "http://host/"),
    ("postgresql://user:CANARY@host:5432/db", "postgresql://user:***@host:5432/db", "postgresql://user@host:5432/db"),
    ("postgresql://user:a@b/CANARY@host/db", "postgresql://user:***@host/db", "postgresql://user@host/db"),
    ("postgresql://u:a?b#CANARY@host/db", "postgresql://u:***@host/db", "postgresql://u@host/db"),
    (
        "mysql+pymysql://host/db?charset=utf8&password=CANARY",
        "mysql+pymysql://host/db?charset=utf8&password=***",
        "mysql+pymysql://host/db?charset=utf8",
    ),
    ("mssql+pyodbc:///?odbc_connect=UID%3Du%3BPWD%3DCANARY", "mssql+pyodbc:///?odbc_connect=***", "mssql+pyodbc:///"),
    ("sqlite+pysqlcipher://:CANARY@/x.db", "sqlite+pysqlcipher://:***@/x.db", "sqlite+pysqlcipher://@/x.db"),
    ("s3://AKIA:aws/CANARY/key@bucket/run", "s3://AKIA:***@bucket/run", "s3://AKIA@bucket/run"),
]


@pytest.mark.parametrize(("uri", "said", "bare"), ADDRESSES)
def test_what_an_address_shows(uri: str, said: str, bare: str) -> None:
    assert any("CANARY" in secret for secret in secrets(uri))
    assert (redact_uri(uri), redact_uri(said)) == (said, said)
    assert without_secrets(uri) == without_secrets(said) == bare
    assert "CANARY" not in redacted(f"error at {uri}: it does not answer")


@pytest.mark.parametrize(
    "uri",
    [
        *("sqlite:////tmp/a:b@c/mlflow.db", "sqlite:///mlflow.db?timeout=5", "http://127.0.0.1:5000/a@b", "mlruns", ""),
        *(
            "postgresql://user@host/db?sslmode=require",
            "s3://bucket/run?region=x",
            "databricks://profile",
            "http://[::1]:5",
        ),
    ],
)
def test_what_holds_no_secret_is_left_as_it_is(uri: str) -> None:
    assert (secrets(uri), redact_uri(uri), without_secrets(uri)) == ([], uri, uri)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MLFLOW_TRACKING_PASSWORD", "CANARY=/+ 1"),
        ("WANDB_API_KEY", "CANARY=/+ 1"),
        ("MLFLOW_TRACKING_URI", f"http://user:{quote('CANARY=/+ 1', safe='')}@host"),
        ("https_proxy", f"http://user:{quote('CANARY=/+ 1', safe='')}@host"),
    ],
)
def test_a_text_shows_no_secret_of_the_environment(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    for said in ("CANARY=/+ 1", "CANARY%3D%2F%2B%201", "CANARY%3D%2F%2B+1"):
        assert redacted(f"Max retries exceeded with url: /api?x={said} (as {said!r})").count("CANARY") == 0


def test_what_an_entry_point_says_holds_none(capsys: pytest.CaptureFixture[str]) -> None:
    program.say("error: the Ray at ray://user:CANARY@host:10001 cannot be joined")
    assert capsys.readouterr().err == "error: the Ray at ray://user:***@host:10001 cannot be joined\n"


def test_a_short_secret_does_not_eat_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "is")
    assert redacted("this is it") == "this *** it"


def test_a_message_is_one_short_line_without_control_characters() -> None:
    assert one_line("\n  first\x1b[31m line\nsecond") == r"first\x1b[31m line"
    assert one_line("x" * 200) == "x" * 159 + "…"
    assert "CANARY" not in one_line("x" * 140 + " http://user:CANARYCANARYCANARY@host"), (
        "it is cut after it is redacted"
    )
