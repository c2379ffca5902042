# SPDX-License-Identifier: Apache-2.0
"""Send a night's message: POST to webhooks, mail by SMTP, a line in a file. Tried again with growing pauses.

A target that cannot be reached is an answer, not an error: the night goes on. URLs of webhooks and passwords are
secrets: they are hidden in whatever is logged or stored.
"""

from __future__ import annotations

import json
import smtplib
import ssl
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from html import escape
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from farm.errors import FarmError, UsageError
from farm.nightly_settings import NotifySettings, SmtpSettings, check_url
from farm.secrets import hide, know, read_secret

#: Seconds before each further try.
PAUSES_S = (2.0, 10.0, 30.0)
_TIMEOUT_S = 20.0
#: Pictures in a mail, all together: mail servers refuse more than some megabytes.
_PICTURES = 4_000_000

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Target:
    """Somebody to tell. `name` has no secret in it."""

    name: str
    send: Callable[[Message], None]


def targets(settings: NotifySettings, *, base: Path, pictures: Sequence[Path] = ()) -> list[Target]:
    """Everybody whom the settings name. `base` is where relative paths begin."""
    found = [_webhook(url.get_secret_value()) for url in settings.webhooks]
    if settings.webhooks_file is not None:
        found.append(_webhooks_in(base / settings.webhooks_file.expanduser()))
    if settings.smtp is not None:
        smtp = settings.smtp
        name = f"mail to {', '.join(smtp.to)} by {smtp.host}:{smtp.port}"
        found.append(Target(name, lambda message: mail(smtp, message, base=base, pictures=pictures)))
    if settings.file is not None:
        path = base / settings.file.expanduser()
        found.append(Target(f"file {path}", lambda message: append(path, message)))
    return found


def tell(
    found: Sequence[Target], message: Message, pause: Callable[[float], None], pauses_s: Sequence[float] = PAUSES_S
) -> list[dict[str, Any]]:
    """Send to each target; say how each took it: {"target", "ok", "tries", "problem"}."""
    return [_deliver(target, message, pause, pauses_s) for target in found]


def _deliver(
    target: Target, message: Message, pause: Callable[[float], None], pauses_s: Sequence[float]
) -> dict[str, Any]:
    problem = ""
    for tries, pause_s in enumerate([*pauses_s, None], start=1):
        try:
            target.send(message)
            return {"target": target.name, "ok": True, "tries": tries, "problem": ""}
        except UsageError as error:
            problem, pause_s = error.message, None
        except (OSError, HTTPException, smtplib.SMTPException, FarmError, ValueError) as error:
            problem = f"{type(error).__name__}: {error}"
        if pause_s is None:
            break
        pause(pause_s)
    return {"target": target.name, "ok": False, "tries": tries, "problem": hide(problem)[:500]}


def post(url: str, message: Message) -> None:
    """POST a message as JSON. Any answer but 2xx is an OSError."""
    body = json.dumps(message, sort_keys=True, allow_nan=False).encode()
    headers = {"Content-Type": "application/json", "User-Agent": "inferfarm"}
    request = urllib.request.Request(check_url(url), data=body, headers=headers, method="POST")  # noqa: S310 - checked
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - checked
        answer.read(1024)


def _webhook(url: str) -> Target:
    know(url)
    return Target(f"webhook at {urlsplit(url).hostname}", lambda message: post(url, message))


def _webhooks_in(path: Path) -> Target:
    def send(message: Message) -> None:
        lines = read_secret(path, "the file of webhooks", "nightly.notify.webhooks_file").split()
        problems = []
        for url in lines:
            try:
                post(know(url), message)
            except (OSError, HTTPException, ValueError) as error:
                problems.append(f"{urlsplit(url).hostname}: {error}")
        if problems:
            raise OSError("; ".join(problems))

    return Target(f"webhooks in {path}", send)


def append(path: Path, message: Message) -> None:
    """Add the message to a file, as one line of JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(message, sort_keys=True, allow_nan=False) + "\n")


def mail(settings: SmtpSettings, message: Message, *, base: Path, pictures: Sequence[Path] = ()) -> None:
    """Send a message by SMTP, as text and as HTML, with the report's figures where the settings ask for them."""
    made = compose(settings, message, pictures if settings.figures else ())
    context = ssl.create_default_context(cafile=str(base / settings.ca_file) if settings.ca_file else None)
    if settings.tls == "tls":
        server: smtplib.SMTP = smtplib.SMTP_SSL(settings.host, settings.port, timeout=_TIMEOUT_S, context=context)
    else:
        server = smtplib.SMTP(settings.host, settings.port, timeout=_TIMEOUT_S)
    with server:
        if settings.tls == "starttls":
            server.starttls(context=context)
        if settings.user is not None:
            server.login(settings.user, _password(settings, base))
        server.send_message(made)


def compose(settings: SmtpSettings, message: Message, pictures: Sequence[Path] = ()) -> EmailMessage:
    """The mail. Pictures are shown inline, as many as `_PICTURES` bytes allow."""
    made = EmailMessage()
    made["From"], made["To"] = settings.sender, ", ".join(settings.to)
    made["Subject"] = str(message["text"]).splitlines()[0][:180]
    made["Date"], made["Message-ID"] = formatdate(), make_msgid(domain="inferfarm.invalid")
    # Replies by holiday programs are of no use to a machine.
    made["Auto-Submitted"] = "auto-generated"
    made.set_content(str(message["text"]) + "\n")
    shown = _fitting(pictures)
    made.add_alternative(_html(message, [path.name for path in shown]), subtype="html")
    parts = made.get_payload()
    for path in shown:
        parts[1].add_related(path.read_bytes(), "image", "png", cid=f"<{path.name}>", filename=path.name)  # type: ignore[index,union-attr]
    return made


def _fitting(pictures: Sequence[Path]) -> list[Path]:
    shown, left = [], _PICTURES
    for path in pictures:
        size = path.stat().st_size
        if size <= left:
            shown.append(path)
            left -= size
    return shown


def _html(message: Message, pictures: Sequence[str]) -> str:
    link = str(message["link"])
    parts = [f"<h2>{escape(str(message['text']).splitlines()[0])}</h2>"]
    for group in message["groups"]:
        rows = "".join(f"<li><b>{escape(c['after'])}</b> {escape(c['text'])}</li>" for c in group["changes"])
        parts.append(f"<h3>{escape(group['group'])}</h3><ul>{rows}</ul>")
    if urlsplit(link).scheme in ("http", "https"):
        parts.append(f'<p><a href="{escape(link)}">The report</a></p>')
    elif link:
        parts.append(f"<p>The report: {escape(link)}</p>")
    parts += [f'<p><img src="cid:{escape(name)}" alt="{escape(name)}" width="640"></p>' for name in pictures]
    return f"<html><body>{''.join(parts)}</body></html>"


def _password(settings: SmtpSettings, base: Path) -> str:
    if settings.password is not None:
        return know(settings.password.get_secret_value())
    if settings.password_file is None:
        raise UsageError("nightly.notify.smtp has a user and no password", hint="Set password_file.")
    path = base / settings.password_file.expanduser()
    return read_secret(path, "the mail server's password file", "nightly.notify.smtp.password_file")
