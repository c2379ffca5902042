# SPDX-License-Identifier: Apache-2.0
"""Errors that people see: what is wrong, where, and what to do. Each kind has its exit code.

FarmError
  UsageError         2  bad arguments, a bad sweep, a name that does not exist
  UnavailableError   3  the farm could not work: no broker, store not writable, device in use
  IntegrityError     3  stored bytes are not what they should be
"""

from __future__ import annotations


class FarmError(Exception):
    """The root of all errors meant for people. `hint` says what to do about it."""

    exit_code = 3

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(FarmError):
    """What was asked cannot be done as asked. `problems` lists every fault, when there may be several."""

    exit_code = 2

    def __init__(self, message: str, *, hint: str | None = None, problems: list[str] | None = None) -> None:
        super().__init__(message, hint=hint)
        self.problems = problems or []


class UnavailableError(FarmError):
    """Something the farm needs is away or refuses: the broker, the store, a device."""


class IntegrityError(FarmError):
    """Stored bytes do not match their digest or schema."""
