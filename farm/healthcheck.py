# SPDX-License-Identifier: Apache-2.0
"""Whether one part of the farm, on this host, is at work: one question to Redis or one to the part's own port."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from typing import cast

from farm.broker.connection import connect
from farm.broker.register import Register
from farm.contract.names import slug
from farm.errors import UnavailableError, UsageError
from farm.settings import Settings

#: Who is the scheduler and who has the nightly's beat; both keys end by themselves when nobody renews them.
LOCKS = {"scheduler": "farm:scheduler", "nightly": "farm:nightly-beat"}
ROLES = ("scheduler", "nightly", "worker", "flower", "metrics")
_LIMIT_S = 5.0


def check(settings: Settings, role: str) -> str:
    """What is well, in words.

    Raises:
        UsageError: no such role.
        UnavailableError: the part is not at work.
    """
    if role not in ROLES:
        raise UsageError(f"no role {role!r}", hint=f"Roles: {', '.join(ROLES)}.")
    if role in LOCKS:
        return _lock(settings, role)
    return _worker(settings) if role == "worker" else _pages(settings, role)


def _lock(settings: Settings, role: str) -> str:
    text = cast(str | None, connect(settings).get(LOCKS[role]))
    if not text:
        raise UnavailableError(f"no {role} is at work")
    try:
        host = json.loads(text)["host"][0]
    except (ValueError, KeyError, IndexError, TypeError):
        host = "an unknown host"
    if host != socket.gethostname():
        raise UnavailableError(f"the {role} at work is on {host}, not on this host")
    return f"the {role} is at work"


def _worker(settings: Settings) -> str:
    """The settings' device, else any of this host: a container serves one, a host may serve several."""
    entries = Register(connect(settings)).devices()
    own = slug(socket.gethostname())
    mine = [e for e in entries if settings.device in (None, e.device_id) and e.announcement.device.host == own]
    online = [entry.device_id for entry in mine if entry.online]
    if not online:
        known = ", ".join(f"{e.device_id}, last seen {e.age_s:.0f} s ago" for e in mine) or "none has announced itself"
        raise UnavailableError(f"no device of this host is served: {known}")
    return f"served: {', '.join(online)}"


def _pages(settings: Settings, role: str) -> str:
    address, port = settings.flower_address, settings.flower_port
    path, tls = f"{settings.flower_url_prefix}/healthcheck", settings.flower_cert_file is not None
    if role == "metrics":
        address, port, path, tls = settings.metrics_address, settings.metrics_port, "/healthz", False
    # Where it listens on every address, the loopback one is asked.
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(address, address)  # noqa: S104
    url = f"{'https' if tls else 'http'}://{host}:{port}{path}"
    try:
        with urllib.request.urlopen(url, timeout=_LIMIT_S) as answer:  # noqa: S310 - http or https, as built above
            return f"{url} answers {answer.status}"
    except (urllib.error.URLError, OSError) as error:
        raise UnavailableError(f"{url}: {error}") from error
