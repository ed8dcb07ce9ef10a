"""Stores that pyarrow opens by URI (s3://bucket/run, gs://bucket/run and others), with time limits and clear errors."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

from popgpt.text.errors import UserError
from popgpt.text.redaction import secrets

OBJECT_STORES = ("s3", "gcs", "abfs")  # a file there comes to be when it is whole
CONNECT_SECONDS = 5.0
SILENT_SECONDS = 10.0
TRIES = 4  # in all about 5 s where nobody listens, 45 s where somebody does and says nothing
MEANINGS = (
    (r"NO_SUCH_BUCKET|Bucket '.*' not found", "there is no such bucket; make it first"),
    (
        r"ACCESS_DENIED|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|INVALID_CLIENT_TOKEN_ID|HTTP status 40[13]",
        "the store refuses access; AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY should be those of an account that may "
        "read and write there",
    ),
    (r"NETWORK_CONNECTION|UNAVAILABLE", "the store does not answer"),
)


class StoreError(OSError):
    """A store refuses or does not answer. The message is one line."""


def is_uri(where: str) -> bool:
    """Return whether `where` is a URI, not a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", where) is not None


def refuse_secrets(where: str, called: str = "") -> None:
    """Raise UserError for a URI with a key in it, which would be kept with the run and shown."""
    if is_uri(where) and secrets(where):
        raise UserError(
            f"{called}{where.partition('://')[0]}://... should hold no key, as it is kept with the run and shown: "
            f"set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment"
        )


def open_store(uri: str) -> tuple[Any, str]:
    """Return pyarrow's file system and the path in it. Raises StoreError."""
    from pyarrow.fs import FileSystem

    with store_errors(uri):
        system, path = FileSystem.from_uri(uri)
    return bounded(system, set(parse_qs(urlsplit(uri).query))), path


def bounded(system: Any, asked: set[str]) -> Any:
    """Return an S3 file system that gives up on a server that says nothing, which a URI cannot ask for.

    If the URI asks for what S3FileSystem has no argument for, the file system stays as it is.
    """
    if system.type_name != "s3":
        return system
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    _, (options,) = system.__reduce__()
    if not asked <= options.keys():
        return system
    times = {"connect_timeout": CONNECT_SECONDS, "request_timeout": SILENT_SECONDS}
    return S3FileSystem(**{**options, **times}, retry_strategy=AwsStandardS3RetryStrategy(max_attempts=TRIES))


@contextmanager
def store_errors(where: str) -> Iterator[None]:
    """Raise a store's complaint as StoreError, in one line; as FileNotFoundError if the file `where` is missing."""
    from pyarrow import ArrowException

    try:
        yield
    except (OSError, ArrowException) as error:
        if isinstance(error, FileNotFoundError) or "NO_SUCH_KEY" in str(error):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), where) from None
        raise StoreError(describe_complaint(str(error))) from None


def describe_complaint(complaint: str) -> str:
    """Return what pyarrow says of a store, in one line: what is wrong, then the store's own words."""
    words = re.sub(r" \(Request ID: [^)]*\)", "", complaint.strip().splitlines()[0])
    _, _, details = words.rpartition("Details: ")
    for sign, meaning in MEANINGS:
        if re.search(sign, words):
            return f"{meaning} ({details})"
    return words
