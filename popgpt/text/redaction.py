"""Removes the secrets from addresses and texts before they are shown or kept."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from urllib.parse import quote, quote_plus, unquote, unquote_plus

from popgpt.text.printable import printable

HIDDEN = "***"
VARIABLES = (
    *("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "WANDB_API_KEY", "PGPASSWORD", "MYSQL_PWD"),
    *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "RAY_AUTH_TOKEN"),
)
"""Environment variables that are a secret. Of every other, the secrets in an address are."""

SHORTEST = 6  # of a secret that is replaced within a word, too
NAMES = "pass|pwd|secret|token|key|sig|auth|cred"
TELLING = re.compile(NAMES, re.IGNORECASE)
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)
# A web address ends its user and password at the first slash. SQLAlchemy's does not: slashes are characters of a
# password there, as they are of AWS's keys.
WEB = re.compile(r"https?://(?P<user>[^:/?#@]*)(?::(?P<password>[^/?#]*|(?!\d+[/?#]).*))?@", re.IGNORECASE | re.DOTALL)
OTHER = re.compile(r"[a-z][a-z0-9+.-]*://(?P<user>[^:/?#@]*):(?P<password>.*)@", re.IGNORECASE | re.DOTALL)
QUERY = re.compile(r"[?&;](?P<name>[^=&;#?]*)=(?P<value>[^&#]*)")
FRAGMENT = re.compile(r"#(?P<value>.*=.*)", re.DOTALL)
PAIR = re.compile(rf"([?&][^=&\s]*(?:{NAMES})[^=&\s]*=)[^&\s]+", re.IGNORECASE)  # what is left of a query in a text


def is_web(uri: str) -> bool:
    """Return whether `uri` is a web address."""
    return uri.lower().startswith(("http://", "https://"))


def secrets(uri: str) -> list[str]:
    """Return the secrets as an address has them: a password, a web address's user without one, a key or token."""
    return [uri[start:end] for start, end in _places(uri)]


def redact_uri(uri: str) -> str:
    """Return `uri` with `***` for each secret, as it is printed and kept."""
    for start, end in reversed(list(_places(uri))):
        uri = uri[:start] + HIDDEN + uri[end:]
    return uri


def without_secrets(uri: str) -> str:
    """Return an address, or a redacted one, without user and password and without what else is secret.

    A database's user stays: the password may come from elsewhere (PGPASSWORD, ~/.pgpass).
    """
    uri = redact_uri(uri)
    scheme, mark, rest = uri.partition("://")
    rest = re.sub(r"^[^/?#@]*@", "", rest) if is_web(uri) else rest.replace(f":{HIDDEN}@", "@", 1)
    rest = re.sub(r"#" + re.escape(HIDDEN), "", rest)
    base, question, query = rest.partition("?")
    kept = [pair for pair in query.split("&") if not pair.endswith(f"={HIDDEN}")]
    return scheme + mark + base + (question + "&".join(kept) if kept and question else "")


def redacted(text: str) -> str:
    """Return `text` without the secrets of this process's environment and those of addresses in the text."""
    for secret in sorted(known(os.environ), key=len, reverse=True):
        inside = "" if len(secret) >= SHORTEST else r"(?<!\w)"
        text = re.sub(inside + re.escape(secret) + inside.replace("<", ""), HIDDEN, text)
    return PAIR.sub(rf"\1{HIDDEN}", ADDRESS.sub(lambda found: redact_uri(found[0]), text))


def known(environment: Mapping[str, str]) -> set[str]:
    """Return the secrets of an environment, in each form in which a library may quote them."""
    found = {environment[name] for name in VARIABLES if name in environment}
    for value in environment.values():
        if "://" in value:
            found |= set(secrets(value))
    plain = found | {unquote(secret) for secret in found} | {unquote_plus(secret) for secret in found}
    plain |= {piece for secret in plain for piece in re.split("[/?#@:]", secret) if len(piece) > 2}  # taken for a host
    forms = plain | {quote(secret, safe="") for secret in plain} | {quote_plus(secret) for secret in plain}
    return {secret for secret in forms if secret.strip("*")}


def one_line(text: str, longest: int = 160) -> str:
    """Return the first line of `text` as a message quotes it, without secrets and control characters, cut if long."""
    first = next((line.strip() for line in redacted(text).splitlines() if line.strip()), "")
    line = printable(first)
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def _places(uri: str) -> Iterator[tuple[int, int]]:
    """Yield where the secrets of an address start and end, in order."""
    web = is_web(uri)
    user = (WEB if web else OTHER).match(uri)
    start = 0
    if user:
        start = user.end()
        if user["password"]:
            yield user.span("password")
        elif web and user["user"]:
            yield user.span("user")
    for pair in QUERY.finditer(uri, start):
        value = unquote_plus(pair["value"])
        if pair["value"] and (TELLING.search(unquote(pair["name"])) or re.search(rf"(?i)({NAMES})\w*=", value)):
            yield pair.span("value")
    if fragment := FRAGMENT.search(uri, start):
        yield fragment.span("value")
