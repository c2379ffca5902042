# SPDX-License-Identifier: Apache-2.0
"""Who may ask the store's service: tokens of workers, and invitations that are worth one token, once.

Kept are SHA-256 digests, one small file each, in a directory for its owner alone. The words themselves are 256 random
bits, which no digest gives away. Files are read at each request: what is revoked is refused at once.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from farm.contract.names import check_name
from farm.errors import UsageError
from farm.secrets import know
from farm.store import files

INVITATION_H = 24.0
_MIN_SECRET = 32
_JOIN = "join1"


@dataclass(frozen=True)
class Grant:
    """A worker that showed its token. `devices`: whose records it may bring; none named: any."""

    name: str
    devices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Invitation:
    """What one token for `farm worker --join` is worth. Its files are read when it is redeemed.

    `cert_file`, `key_file`: what the worker shows to a broker that asks for client certificates.
    """

    name: str
    devices: tuple[str, ...]
    device_kind: str | None
    store_url: str
    broker_url: str
    broker_user: str | None
    password_file: str | None
    cert_file: str | None = None
    key_file: str | None = None


@dataclass(frozen=True)
class JoinToken:
    """The parts of what `farm worker invite` prints. `fingerprint`: SHA-256 of the authority's certificate."""

    invitation: str
    secret: str
    fingerprint: str

    def __str__(self) -> str:
        return f"{_JOIN}.{self.invitation}.{self.secret}.{self.fingerprint}"

    @classmethod
    def parse(cls, text: str) -> JoinToken:
        """Take a token apart. The error does not hold it.

        Raises:
            UsageError: it is none, or was cut.
        """
        parts = text.strip().split(".")
        if len(parts) != 4 or parts[0] != _JOIN or [len(part) for part in parts[1:]] != [16, 43, 64]:
            hint = "Copy the whole line that `farm worker invite` printed."
            raise UsageError("this is no token of `farm worker invite`", hint=hint)
        know(parts[2])
        return cls(*parts[1:])


class Access:
    """The tokens and invitations below one directory."""

    def __init__(self, root: Path) -> None:
        self._tokens = root / "tokens"
        self._invitations = root / "invitations"

    def grant(self, name: str, devices: Sequence[str] = (), secret: str | None = None) -> str:
        """Give a worker a token, in place of one that it has; return it. `secret`: one that is to be it, `NAME:...`.

        Raises:
            UsageError: no name, or `secret` is too short or another's.
            UnavailableError: the directory cannot be written.
        """
        _check(name, "worker's name")
        token = secret or f"{name}:{secrets.token_urlsafe(32)}"
        if not token.startswith(f"{name}:") or len(token) - len(name) <= _MIN_SECRET or not token.isascii():
            raise UsageError(f"the token of {name} is not `{name}:` and {_MIN_SECRET} or more characters")
        for device in devices:
            _check(device, "device id")
        _write(self._tokens / f"{name}.json", {"digest": _digest(token), "devices": list(devices)})
        return know(token)

    def revoke(self, name: str) -> None:
        """Refuse a worker's token from now on.

        Raises:
            UsageError: it has none.
        """
        try:
            (self._tokens / f"{_check(name, 'worker name')}.json").unlink()
        except FileNotFoundError:
            raise UsageError(f"no worker {name!r} has a token", hint=f"Some have: {', '.join(self.names())}") from None

    def names(self) -> list[str]:
        """The workers that have a token."""
        return sorted(path.stem for path in self._tokens.glob("*.json"))

    def check(self, token: str) -> Grant | None:
        """Whose token this is; None for nobody's."""
        name = token.partition(":")[0]
        kept = _read(self._tokens, name)
        # Compared in any case: how long it takes must not tell which names there are.
        same = hmac.compare_digest(_digest(token), str(kept.get("digest", "")))
        return Grant(name, tuple(map(str, kept.get("devices", ())))) if same else None

    def invite(self, invitation: Invitation, fingerprint: str, hours: float = INVITATION_H) -> JoinToken:
        """Make a token that is worth this invitation, once, for so many hours.

        Raises:
            UsageError: a name in it is none.
            UnavailableError: the directory cannot be written.
        """
        _check(invitation.name, "worker's name")
        for device in invitation.devices:
            _check(device, "device id")
        self.tidy()
        made = JoinToken(secrets.token_hex(8), know(secrets.token_urlsafe(32)), fingerprint)
        document = asdict(invitation) | {"digest": _digest(made.secret), "expires_at": time.time() + hours * 3600}
        _write(self._invitations / f"{made.invitation}.json", document)
        return made

    def redeem(self, invitation: str, secret: str) -> Invitation | None:
        """What the token is worth, which it is from now on no more; None if it is used, over, or wrong."""
        kept = _read(self._invitations, invitation)
        same = hmac.compare_digest(_digest(secret), str(kept.get("digest", "")))
        if not same or not _lasts(kept):
            return None
        try:
            # Of two that come with it at once, one finds the file.
            (self._invitations / f"{invitation}.json").unlink()
        except FileNotFoundError:
            return None
        files.fsync_directory(self._invitations)
        fields = {name: kept.get(name) for name in Invitation.__dataclass_fields__}
        return Invitation(**fields | {"devices": tuple(kept.get("devices", ()))})

    def tidy(self) -> None:
        """Remove the invitations that are over."""
        for path in self._invitations.glob("*.json"):
            if not _lasts(_read(self._invitations, path.stem)):
                path.unlink(missing_ok=True)


def _lasts(kept: dict[str, Any]) -> bool:
    expires_at = kept.get("expires_at")
    return isinstance(expires_at, float) and time.time() < expires_at


def _digest(word: str) -> str:
    return hashlib.sha256(word.encode("utf-8", "backslashreplace")).hexdigest()


def _check(name: str, what: str) -> str:
    try:
        return check_name(name, what)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _read(directory: Path, name: str) -> dict[str, Any]:
    """A kept document; an empty one where there is none of that name, or no sound one."""
    try:
        found = json.loads((directory / f"{check_name(name, 'name')}.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(path: Path, document: dict[str, Any]) -> None:
    with files.store_errors("write", path):
        for directory in (path.parent.parent, path.parent):
            files.make_root(directory, 0o700)
        with files.temp_file(path.parent) as temp:
            temp.write(json.dumps(document, sort_keys=True).encode())
            files.seal(temp, 0o600)
            files.publish_over(Path(temp.name), path)
