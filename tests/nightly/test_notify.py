# SPDX-License-Identifier: Apache-2.0
"""People are told: over HTTP, by mail through a real server, in a file; and what happens when they cannot be."""

from __future__ import annotations

import base64
import email
import email.policy
import http.server
import json
import logging
import socketserver
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import ValidationError

from farm.nightly_settings import NightlySettings, NotifySettings, SmtpSettings
from scheduler.nightly import notify

MESSAGE = {
    "schema": 1,
    "kind": "inferfarm.night",
    "night": "2026-11-21",
    "state": "attention",
    "link": "https://farm.example/2026-11-21/index.html",
    "text": "Inferfarm night 2026-11-21: 1 thing needs attention\n- [new] <b>slower</b>",
    "counts": {"records": 3, "ok": 3},
    "groups": [
        {
            "group": "latency",
            "changes": [{"subject": "event:1", "before": "", "after": "new", "text": "<b>slower</b>", "bad": True}],
        }
    ],
}
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield int(cast(Any, server.server_address)[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=120)


class Webhook(http.server.ThreadingHTTPServer):
    """Answers with `answers` in their order, then with 200."""

    def __init__(self, *answers: int) -> None:
        self.answers = list(answers)
        self.posts: list[tuple[str, dict[str, Any]]] = []
        super().__init__(("127.0.0.1", 0), _Hook)


class _Hook(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = cast(Webhook, self.server)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.posts.append((str(self.headers["Content-Type"]), body))
        self.send_response(server.answers.pop(0) if server.answers else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_words: object) -> None:
        pass


class Mailbox(socketserver.ThreadingTCPServer):
    """A mail server: EHLO, STARTTLS, AUTH PLAIN, MAIL, RCPT, DATA. `mails` has what it took, `logins` who came."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, context: ssl.SSLContext | None = None, *, refuse: str = "") -> None:
        self.context = context
        self.refuse = refuse
        self.mails: list[EmailMessage] = []
        self.logins: list[str] = []
        self.plain_logins: list[str] = []
        super().__init__(("127.0.0.1", 0), _Smtp)


class _Smtp(socketserver.StreamRequestHandler):
    def say(self, line: str) -> None:
        self.wfile.write(line.encode() + b"\r\n")
        self.wfile.flush()

    def handle(self) -> None:
        box, secure = cast(Mailbox, self.server), False
        self.say("220 box")
        while line := self.rfile.readline().decode().strip():
            verb = line.split()[0].upper()
            if box.refuse and verb == box.refuse:
                self.say("550 not wanted here")
            elif verb == "EHLO":
                offers = ["box", *(["STARTTLS"] if box.context and not secure else []), "AUTH PLAIN"]
                for i, offer in enumerate(offers):
                    self.say(f"250{'-' if i < len(offers) - 1 else ' '}{offer}")
            elif verb == "STARTTLS" and box.context:
                self.say("220 go")
                self.request = box.context.wrap_socket(self.request, server_side=True)
                self.rfile, self.wfile = self.request.makefile("rb"), self.request.makefile("wb")
                secure = True
            elif verb == "AUTH":
                (box.logins if secure else box.plain_logins).append(base64.b64decode(line.split()[2]).decode())
                self.say("235 ok")
            elif verb == "DATA":
                self.say("354 go on")
                lines = list(iter(self.rfile.readline, b".\r\n"))
                box.mails.append(
                    cast(EmailMessage, email.message_from_bytes(b"".join(lines), policy=email.policy.default))
                )
                self.say("250 ok")
            elif verb == "QUIT":
                self.say("221 bye")
                break
            else:
                self.say("250 ok")
        if secure:
            self.rfile.close()
            self.wfile.close()
            self.request.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", str(directory / "key"),
         "-out", str(directory / "crt")],
        check=True, capture_output=True,
    )  # fmt: skip
    return directory


@pytest.fixture
def context(certificate: Path) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(certificate / "crt", certificate / "key")
    return made


Paused = Callable[[float], None]


@pytest.fixture
def pauses() -> list[float]:
    return []


def tell(settings: dict[str, Any], base: Path, pauses: list[float], **given: Any) -> list[dict[str, Any]]:
    found = notify.targets(NotifySettings.model_validate(settings), base=base, **given)
    return notify.tell(found, MESSAGE, pauses.append)


def test_a_webhook_gets_json_once(tmp_path: Path, pauses: list[float]) -> None:
    with serving(server := Webhook()) as port:
        (took,) = tell({"webhooks": [f"http://127.0.0.1:{port}/a"]}, tmp_path, pauses)
    assert took == {"target": "webhook at 127.0.0.1", "ok": True, "tries": 1, "problem": ""}
    assert server.posts == [("application/json", MESSAGE)]
    assert pauses == []


def test_it_is_tried_again_with_growing_pauses(tmp_path: Path, pauses: list[float]) -> None:
    with serving(server := Webhook(503, 500)) as port:
        (took,) = tell({"webhooks": [f"http://127.0.0.1:{port}/a"]}, tmp_path, pauses)
    assert (took["ok"], took["tries"], len(server.posts)) == (True, 3, 3)
    assert pauses == list(notify.PAUSES_S[:2])
    assert pauses == sorted(pauses)


def test_given_up_it_says_why_without_the_secret(
    tmp_path: Path, pauses: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    with serving(Webhook(*[404] * 9)) as port:
        url = f"http://127.0.0.1:{port}/services/T000/very-secret-word"
        (took,) = tell({"webhooks": [url]}, tmp_path, pauses)
    assert (took["ok"], took["tries"]) == (False, len(notify.PAUSES_S) + 1)
    assert "404" in took["problem"]
    logging.getLogger("x").warning("posting to %s", url)
    assert "very-secret-word" not in json.dumps(took) + caplog.text


def test_nobody_there_is_an_answer_and_no_error(tmp_path: Path, pauses: list[float]) -> None:
    with serving(Webhook()) as port:
        pass
    smtp = {"host": "127.0.0.1", "port": port, "tls": "none", "sender": "a@b.example", "to": ["c@d.example"]}
    took = tell({"webhooks": [f"http://127.0.0.1:{port}/"], "smtp": smtp, "file": "/proc/none/x"}, tmp_path, pauses)
    assert [each["ok"] for each in took] == [False, False, False]
    assert all(each["problem"] for each in took)


def test_webhooks_from_a_file(tmp_path: Path, pauses: list[float]) -> None:
    with serving(one := Webhook()) as a, serving(two := Webhook(500)) as b:
        (tmp_path / "hooks").write_text(f"http://127.0.0.1:{a}/x\nhttp://127.0.0.1:{b}/y\n")
        (took,) = tell({"webhooks_file": "hooks"}, tmp_path, pauses)
    assert took["ok"]
    assert len(two.posts) == 2
    assert len(one.posts) >= 1


def test_a_file_gets_a_line_for_each_message(tmp_path: Path, pauses: list[float]) -> None:
    for _ in range(2):
        tell({"file": "logs/nights.jsonl"}, tmp_path, pauses)
    lines = (tmp_path / "logs/nights.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [MESSAGE, MESSAGE]


def smtp(port: int, certificate: Path, **keys: Any) -> dict[str, Any]:
    given = {
        "host": "localhost", "port": port, "ca_file": str(certificate / "crt"), "user": "farm",
        "password_file": "mail.password", "sender": "farm@example.org", "to": ["a@example.org", "b@example.org"],
    }  # fmt: skip
    return {"smtp": given | keys}


def test_mail_goes_over_tls_with_text_html_and_pictures(
    tmp_path: Path, certificate: Path, context: ssl.SSLContext, pauses: list[float]
) -> None:
    (tmp_path / "mail.password").write_text("correct horse\n")
    (tmp_path / "latency.png").write_bytes(PNG)
    with serving(box := Mailbox(context)) as port:
        (took,) = tell(smtp(port, certificate, figures=True), tmp_path, pauses, pictures=[tmp_path / "latency.png"])
    assert took["ok"], took
    assert box.logins == ["\0farm\0correct horse"]
    assert box.plain_logins == []
    (mail,) = box.mails
    assert mail["To"] == "a@example.org, b@example.org"
    assert mail["Subject"] == "Inferfarm night 2026-11-21: 1 thing needs attention"
    text, page = mail.get_body(("plain",)), mail.get_body(("html",))
    assert text is not None
    assert page is not None
    assert "[new]" in text.get_content()
    html = page.get_content()
    assert 'href="https://farm.example/2026-11-21/index.html"' in html
    assert "&lt;b&gt;slower" in html
    assert "<b>slower" not in html
    assert 'src="cid:latency.png"' in html
    assert [part.get_payload(decode=True) for part in mail.walk() if part.get_content_type() == "image/png"] == [PNG]


def test_no_password_goes_to_a_server_that_cannot_prove_who_it_is(
    tmp_path: Path, certificate: Path, context: ssl.SSLContext, pauses: list[float]
) -> None:
    (tmp_path / "mail.password").write_text("correct horse\n")
    with serving(box := Mailbox(context)) as port:
        (took,) = tell(smtp(port, certificate, ca_file=None), tmp_path, pauses)
    assert not took["ok"]
    with serving(plain := Mailbox()) as port:
        (took,) = tell(smtp(port, certificate), tmp_path, pauses)
    assert not took["ok"]
    assert "STARTTLS" in took["problem"]
    assert box.logins == box.plain_logins == plain.logins == plain.plain_logins == []


def test_a_mail_that_is_refused_says_so(
    tmp_path: Path, certificate: Path, context: ssl.SSLContext, pauses: list[float]
) -> None:
    (tmp_path / "mail.password").write_text("correct horse\n")
    with serving(Mailbox(context, refuse="RCPT")) as port:
        (took,) = tell(smtp(port, certificate), tmp_path, pauses)
    assert not took["ok"]
    assert "not wanted here" in took["problem"]


def test_pictures_are_left_out_where_they_are_too_much(tmp_path: Path) -> None:
    big, small = tmp_path / "big.png", tmp_path / "small.png"
    big.write_bytes(b"x" * 5_000_000)
    small.write_bytes(PNG)
    settings = SmtpSettings.model_validate({"host": "h", "sender": "a@b", "to": ["c@d"]})
    names = [part.get_filename() for part in notify.compose(settings, MESSAGE, [big, small]).walk()]
    assert "small.png" in names
    assert "big.png" not in names


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"notify": {"webhooks": ["ftp://x/secret-word"]}}, "http:// or https://"),
        ({"notify": {"smtp": {"host": "h", "sender": "me", "to": ["a@b"]}}}, "no e-mail address"),
        ({"notify": {"smtp": {"host": "h", "sender": "a@b", "to": []}}}, "at least 1"),
        ({"notify": {"smtp": {"host": "h", "sender": "a@b", "to": ["a@b\nBcc: x@y"]}}}, "no e-mail address"),
        ({"notify": {"smtp": {"host": "h", "tls": "none", "user": "u", "sender": "a@b", "to": ["a@b"]}}}, "without"),
        ({"sweeps": [{"path": "a", "days": "mon,funday"}]}, "no such day: funday"),
        ({"sweeps": [{"path": "a", "label": "../x"}]}, "label"),
        ({"at": "25:00"}, "neither a time of day"),
        ({"deadline_h": 48}, "less than or equal to 23"),
        ({"sweep": []}, "Extra inputs"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(table: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as error:
        NightlySettings.model_validate(table)
    assert words in str(error.value)
