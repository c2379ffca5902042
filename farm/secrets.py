# SPDX-License-Identifier: Apache-2.0
"""Secrets stay where they were given: read from files or the environment, hidden in all that is written or shown.

`know` is told each secret as it is read. From then on this process's log records and the texts that pass through
`hide` have `***` in its place, also inside an exception's message, which no caller can be trusted to look through.
"""

from __future__ import annotations

import logging
import os
import re
import secrets as random_words
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote, unquote

from farm.errors import UnavailableError

MASK = "***"
#: Shorter words are no secrets, and hiding them would garble everything.
_MIN = 6
_IN_URL = re.compile(r"(?P<before>[a-zA-Z][a-zA-Z0-9+.-]*://[^\s:/@'\"]*:)[^\s/@'\"]+(?=@)")

_known: set[str] = set()


def know(secret: str) -> str:
    """Remember a secret, so that it is hidden; return it."""
    if len(secret) >= _MIN:
        if not _known:
            _guard_logging()
        _known.update({secret, quote(secret, safe=""), unquote(secret), repr(secret)[1:-1]})
    return secret


def hide(text: str) -> str:
    """The text with `***` for every known secret and for the password of any URL in it."""
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return _IN_URL.sub(lambda found: found["before"] + MASK, text)


def traceback_text(error: BaseException) -> str:
    """An exception's traceback without secrets."""
    return hide("".join(traceback.format_exception(error)))


def read_secret(path: Path, what: str, setting: str) -> str:
    """The secret in a file, without its last line's end; it is known from now on.

    Raises:
        UnavailableError: the file cannot be read, is empty, or is no text.
    """
    try:
        text = path.expanduser().read_text().strip()
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UnavailableError(f"{what} cannot be read: {path}: {cause}", hint=f"Check {setting}.") from error
    if not text:
        raise UnavailableError(f"{what} is empty: {path}", hint=f"Check {setting}.")
    return know(text)


def private_file(path: Path, text: str) -> None:
    """Write a file that only its owner can read, replacing what is there."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        os.fchmod(descriptor, 0o600)  # the mode of `open` is only for a new file
        stream.write(text)


def password_in(path: Path) -> str:
    """The password in a file; if there is no such file, a new one is made and written there, for its owner only.

    Raises:
        UnavailableError: the file can be neither read nor made.
    """
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            private_file(path, random_words.token_urlsafe(32) + "\n")
        except OSError as error:
            raise UnavailableError(
                f"no password can be written to {path}: {error.strerror}", hint="Name a directory you can write to."
            ) from error
    return read_secret(path, "the password file", str(path))


def _guard_logging() -> None:
    """Hide secrets in every log record of this process, whichever library makes it and whichever handler writes it."""
    make = logging.getLogRecordFactory()

    def guarded(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        try:
            text = record.getMessage()
        except (TypeError, ValueError, KeyError):
            return record  # a wrong format is for logging itself to report
        hidden = hide(text)
        if hidden != text:
            record.msg, record.args = hidden, ()
        if record.exc_info and record.exc_info[1] is not None:
            # Formatters print this text in place of making their own.
            record.exc_text = traceback_text(record.exc_info[1]).rstrip("\n")
        return record

    logging.setLogRecordFactory(guarded)
    sys.excepthook = _print_hidden


def _print_hidden(_kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
    sys.stderr.write(traceback_text(error))
