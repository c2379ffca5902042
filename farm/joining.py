# SPDX-License-Identifier: Apache-2.0
"""`farm worker --join`: a one-time token against credentials, and this host's settings made of them.

The token carries the fingerprint of the farm's authority. Its certificate is fetched first, unproven and with nothing
sent; only a service whose certificate that authority signed is then shown the token.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farm.errors import UnavailableError, UsageError
from farm.secrets import know, private_file
from farm.settings import Settings
from farm.store.files import make_root
from farm.store.link import Link, parse_url, trusting
from farm.store_service.access import JoinToken

_MAX_PEM = 64 << 10
#: File of this host's settings -> key of the answer. What the farm does not have makes no file.
_FILES = {
    "ca.crt": "ca",
    "store.token": "store_token",
    "broker.password": "broker_password",
    "broker-ca.crt": "broker_ca",
    "broker.crt": "broker_cert",
    "broker.key": "broker_key",
}
#: Certificates, which everybody may see.
_PUBLIC = frozenset({"ca", "broker_ca", "broker_cert"})
_SETTINGS = "farm.toml"


@dataclass(frozen=True)
class Joined:
    """What the farm gave: its words, and the authority that it was reached with."""

    answer: Mapping[str, Any]
    ca_pem: str

    @property
    def device_kind(self) -> str | None:
        """Which kind of device the invitation is for, if it says."""
        kind = self.answer.get("device_kind")
        return str(kind) if kind else None

    @property
    def devices(self) -> tuple[str, ...]:
        """Which devices the invitation is for, if it says."""
        return tuple(map(str, self.answer.get("devices") or ()))


def certificate_fingerprint(pem: str) -> str:
    """The SHA-256 of a certificate, as `openssl x509 -fingerprint -sha256` prints it, without colons.

    Raises:
        UsageError: it is not one certificate.
    """
    try:
        if pem.count("-----BEGIN CERTIFICATE-----") != 1:
            raise ValueError("not exactly one certificate")
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem[pem.index("-----BEGIN CERT") :].strip())).hexdigest()
    except ValueError as error:
        raise UsageError(f"the authority's certificate cannot be used: {error}") from error


def check_free(path: Path) -> None:
    """Make the directory of the settings' file, and see that no settings are in it: before the token is spent.

    Raises:
        UsageError: this host has settings already.
        UnavailableError: the directory cannot be written.
    """
    directory = path.parent
    try:
        make_root(directory, 0o700)
        taken = [name for name in (path.name, *_FILES) if (directory / name).exists()]
    except OSError as error:
        raise UnavailableError(f"{directory} cannot be made: {error.strerror}", hint="Set FARM_CONFIG.") from error
    if taken:
        hint = "Remove them, or name another place: FARM_CONFIG=/etc/inferfarm/farm.toml."
        raise UsageError(f"this host has settings in {directory}: {', '.join(taken)}", hint=hint)
    if not os.access(directory, os.W_OK):
        raise UnavailableError(f"{directory} cannot be written", hint="Set FARM_CONFIG.")


def join(url: str, token: JoinToken) -> Joined:
    """Spend the token.

    Raises:
        UsageError: the URL is none, or the token is used, over or another farm's.
        UnavailableError: nobody answers there, or somebody who is not this farm.
    """
    address = parse_url(url)
    if not address.tls:
        raise UsageError("a farm is joined by https:// alone", hint="Use https://HOST:8470.")
    ca_pem = _authority(Link(address, _unproven), token.fingerprint)
    asked = json.dumps({"invitation": token.invitation, "secret": token.secret}).encode()
    context = trusting(ca_pem=ca_pem)
    with Link(address, lambda: context).ask("POST", "/join", body=asked) as answer:
        given = json.loads(answer.read(_MAX_PEM))
    if not isinstance(given, dict) or not isinstance(given.get("store_token"), str):
        raise UnavailableError(f"the answer of {address} is no farm's")
    return Joined(given, ca_pem)


def write_settings(joined: Joined, path: Path, settings: Settings, device: str | None) -> None:
    """Write what was given as this host's settings to `path` and beside it, for its owner alone.

    Raises:
        UnavailableError: a file cannot be written.
    """
    given, directory = {**joined.answer, "ca": joined.ca_pem}, path.parent
    words = {"home": str(settings.home), "store_url": given["store_url"], "broker_url": given["broker_url"]}
    words |= {"broker_user": given.get("broker_user"), "device": device}
    try:
        for name, key in _FILES.items():
            if given.get(key):
                private_file(directory / name, str(given[key]) if key in _PUBLIC else know(str(given[key])))
        words |= _paths(directory, given)
        lines = [f"{key} = {json.dumps(str(value), ensure_ascii=False)}" for key, value in words.items() if value]
        private_file(path, "\n".join(lines) + "\n")
    except OSError as error:
        raise UnavailableError(f"{error.filename} cannot be written: {error.strerror}") from error


def _paths(directory: Path, given: Mapping[str, Any]) -> dict[str, str]:
    found = {"store_ca_file": "ca.crt", "store_token_file": "store.token"}
    if given.get("broker_password"):
        found["broker_password_file"] = "broker.password"  # noqa: S105 - a file's name
    if str(given["broker_url"]).startswith("rediss:"):
        found["broker_ca_file"] = "broker-ca.crt" if given.get("broker_ca") else "ca.crt"
        if given.get("broker_cert") and given.get("broker_key"):
            found |= {"broker_cert_file": "broker.crt", "broker_key_file": "broker.key"}
    return {setting: str(directory / name) for setting, name in found.items()}


def _unproven() -> ssl.SSLContext:
    """For the one request that sends nothing and whose answer is checked by itself."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _authority(link: Link, fingerprint: str) -> str:
    with link.ask("GET", "/ca") as answer:
        if answer.status != 200:
            raise UnavailableError("that service gives no certificate", hint="Set store_ca_file on the controller.")
        pem = answer.read(_MAX_PEM).decode("ascii", "replace")
    if not hmac.compare_digest(certificate_fingerprint(pem), fingerprint):
        raise UnavailableError(
            "that service is not the farm that made the token: its authority has another fingerprint",
            hint="Check the URL. If it is right, somebody is between you and the controller: the token was not sent.",
        )
    return pem
