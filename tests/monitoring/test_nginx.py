# SPDX-License-Identifier: Apache-2.0
"""deploy/nginx/inferfarm.conf in a real nginx: Flower, reports, metrics behind TLS and a login, in a real Chromium."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from farm.api import Farm
from farm.broker.embedded import EmbeddedBroker
from farm.local import LocalFarm
from farm.monitoring.serve import make
from farm.settings import Settings
from tests.docs.tables import ROOT
from tests.e2e.conftest import sweep, wait_for
from tests.monitoring.test_flower_proxy import is_well
from tests.security.tls_server import make_authority, make_certificate

__all__ = ["sweep"]

CONFIG = ROOT / "deploy/nginx/inferfarm.conf"
PASSWORD = "a-password-of-mine"
#: What stands around a site on Debian.
MAIN = """
daemon off;
worker_processes 1;
pid {dir}/nginx.pid;
error_log {dir}/error.log;
{user}
events {{ worker_connections 64; }}
http {{
    access_log {dir}/access.log;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    include {dir}/site.conf;
}}
"""


def nginx_program() -> str:
    """Debian has it where only root looks."""
    found = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if found is None or shutil.which("openssl") is None:
        message = "no nginx, or no openssl: install Debian's nginx-light and openssl to test the proxy"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    return str(found)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Proxy:
    """The site, served at `port` with TLS and at `plain` without."""

    directory: Path
    port: int
    plain: int

    def get(self, path: str, *, login: str | None = f"farm:{PASSWORD}", method: str = "GET") -> tuple[int, Any, bytes]:
        """Status, headers and body of one answer; redirects are not followed."""
        context = ssl.create_default_context(cafile=str(self.directory / "ca.crt"))
        line = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=30, context=context)
        headers = {"Authorization": "Basic " + b64encode(login.encode()).decode()} if login else {}
        with contextlib.closing(line):
            line.request(method, path, headers=headers)
            answer = line.getresponse()
            return answer.status, answer.headers, answer.read()


@contextlib.contextmanager
def served(directory: Path, flower: int, metrics: int = 9, pages: int = 9, login: bool = True) -> Iterator[Proxy]:
    """nginx with the repository's file, of which only ports, paths and the host's name are changed."""
    program, port, plain = nginx_program(), free_port(), free_port()
    make_authority(directory)
    make_certificate(directory, "web")
    digest = subprocess.run(
        ["openssl", "passwd", "-6", "-stdin"], input=PASSWORD, capture_output=True, text=True, check=True, timeout=60
    ).stdout
    (directory / "web.users").write_text(f"farm:{digest}")
    text = re.sub(r"^\s*listen \[::\].*$", "", CONFIG.read_text(), flags=re.MULTILINE)
    for old, new in {
        "listen 443": f"listen 127.0.0.1:{port}", "listen 80": f"listen 127.0.0.1:{plain}",
        "/etc/inferfarm/": f"{directory}/", "127.0.0.1:5555": f"127.0.0.1:{flower}",
        "127.0.0.1:9464": f"127.0.0.1:{metrics}", "127.0.0.1:8085": f"127.0.0.1:{pages}",
    }.items():  # fmt: skip
        assert old in text, old
        text = text.replace(old, new)
    # With single sign-on, Flower itself asks: docs/monitoring.md says to write this into its location.
    text = text if login else text.replace("location /flower/ {", "location /flower/ {\n auth_basic off;")
    (directory / "site.conf").write_text(text)
    user = "user root;" if os.geteuid() == 0 else ""
    (directory / "nginx.conf").write_text(MAIN.format(dir=directory, user=user))
    command = [program, "-p", str(directory), "-e", str(directory / "error.log"), "-c", str(directory / "nginx.conf")]
    checked = subprocess.run([*command, "-t"], capture_output=True, text=True, timeout=120)
    assert checked.returncode == 0 and "warn" not in checked.stderr, checked.stderr
    process = subprocess.Popen(command)
    proxy = Proxy(directory, port, plain)
    try:
        wait_for(lambda: listens(port), "nginx")
        yield proxy
    finally:
        process.terminate()
        process.wait(timeout=120)


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=120):
        return True
    return False


@contextlib.contextmanager
def in_thread(server: Any) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Quiet(SimpleHTTPRequestHandler):
    """What farm-pages serves with."""

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def site(
    settings: Settings, sweep: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Proxy, str]]:
    """The proxy before a farm that has done a job, and the job's name."""
    nginx_program()
    port = free_port()
    monkeypatch.setenv("FARM_FLOWER_PORT", str(port))
    monkeypatch.setenv("FARM_FLOWER_URL_PREFIX", "/flower")
    there = settings.model_copy(update={"flower_port": port, "flower_url_prefix": "/flower", "metrics_port": 0})
    reports = tmp_path / "reports"
    (reports / "nightly").mkdir(parents=True)
    (reports / "nightly/index.html").write_text("<h1>Nights</h1>")
    with contextlib.ExitStack() as stack:
        stack.enter_context(LocalFarm(settings, flower=True))
        wait_for(lambda: is_well(there), "Flower")
        wait_for(lambda: "Connected to" in (settings.run_dir / "flower.log").read_text(), "Flower's events")
        metrics = stack.enter_context(in_thread(make(there)))
        pages = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(reports)))
        proxy = stack.enter_context(served(tmp_path, port, metrics, stack.enter_context(in_thread(pages))))
        farm = Farm(settings)
        submission = farm.submit(sweep("seen", latency_ms=20))
        for _ in farm.watch(submission.sweep_id):
            pass
        yield proxy, farm.status(submission.sweep_id)[0].name


@pytest.mark.browser
def test_a_person_sees_the_jobs_the_reports_and_the_metrics_after_one_login(
    site: tuple[Proxy, str], chromium: Any
) -> None:
    proxy, job = site
    for path in (
        "/flower/",
        "/flower/tasks",
        "/flower/api/tasks",
        "/flower/metrics",
        "/flower/healthcheck",
        "/metrics",
    ):
        for login in (None, "farm:wrong", "other:" + PASSWORD):
            assert proxy.get(path, login=login)[0] == 401, path
    assert proxy.get("/nightly/", login=None)[0] == 401
    person = chromium.new_context(ignore_https_errors=True, http_credentials={"username": "farm", "password": PASSWORD})
    try:
        page = person.new_page()
        failed: list[str] = []
        page.on("response", lambda answer: failed.append(answer.url) if answer.status >= 400 else None)
        page.goto(f"https://127.0.0.1:{proxy.port}/flower/tasks")
        page.get_by_role("link", name=job).or_(page.get_by_text(job)).first.wait_for(timeout=120_000)
        page.get_by_text("SUCCESS").first.wait_for(timeout=120_000)
        page.goto(f"https://127.0.0.1:{proxy.port}/nightly/")
        assert page.get_by_role("heading", name="Nights").is_visible()
        assert [url for url in failed if "favicon" not in url] == []
    finally:
        person.close()
    status, headers, body = proxy.get("/metrics")
    assert (status, b'inferfarm_jobs{state="done"} 1.0' in body) == (200, True)
    assert headers["Strict-Transport-Security"] and "Server" in headers and "/" not in headers["Server"]
    assert proxy.get("/nightly/", method="PUT")[0] in (403, 405)


def test_who_comes_without_tls_is_sent_to_it(tmp_path: Path) -> None:
    with (
        served(tmp_path, 9) as proxy,
        contextlib.closing(http.client.HTTPConnection("127.0.0.1", proxy.plain, timeout=30)) as line,
    ):
        line.request("GET", "/flower/tasks", headers={"Host": "farm.example"})
        answer = line.getresponse()
        assert (answer.status, answer.headers["Location"]) == (301, "https://farm.example/flower/tasks")
        assert proxy.get("/metrics")[0] == 502, "let in, and nothing is behind"


def test_with_single_sign_on_people_are_sent_to_their_provider(
    broker: EmbeddedBroker, settings: Settings, tmp_path: Path
) -> None:
    nginx_program()
    (tmp_path / "secret").write_text("a-secret-of-the-provider\n")
    port = free_port()
    own = {
        "FARM_FLOWER_PORT": str(port), "FARM_FLOWER_URL_PREFIX": "/flower", "FARM_FLOWER_OAUTH_PROVIDER": "github",
        "FARM_FLOWER_OAUTH_ALLOW": "ann@lab.example", "FARM_FLOWER_OAUTH_CLIENT_ID": "client-1",
        "FARM_FLOWER_OAUTH_SECRET_FILE": str(tmp_path / "secret"),
        "FARM_FLOWER_OAUTH_REDIRECT_URL": "https://farm.example/flower/login",
    }  # fmt: skip
    there = settings.model_copy(update={"flower_port": port, "flower_url_prefix": "/flower"})
    with (tmp_path / "flower.log").open("wb") as log:
        command = [sys.executable, "-m", "farm.cli.main", "flower"]
        process = subprocess.Popen(command, env=os.environ | settings.environment() | own, stdout=log, stderr=log)
    try:
        wait_for(lambda: is_well(there), "Flower")
        with served(tmp_path, port, login=False) as proxy:
            for path in ("/flower/tasks", "/flower/api/tasks", "/flower/metrics"):
                status, headers, body = proxy.get(path, login=None)
                assert (status, b"resnet" in body) == (302, False), path
                assert urlsplit(headers["Location"]).path == "/flower/login"
            status, headers, _ = proxy.get("/flower/login", login=None)
            to, asked = urlsplit(headers["Location"]), parse_qs(urlsplit(headers["Location"]).query)
            assert (status, to.scheme, to.hostname) == (302, "https", "github.com")
            assert asked["client_id"] == ["client-1"]
            assert asked["redirect_uri"] == ["https://farm.example/flower/login"]
            assert asked["state"][0]
            # Who comes back with a state that was never given out gets no further.
            assert proxy.get("/flower/login?code=x&state=made-up", login=None)[0] >= 400
            assert proxy.get("/metrics", login=None)[0] == 401
    finally:
        process.terminate()
        process.wait(timeout=120)
    assert "a-secret-of-the-provider" not in (tmp_path / "flower.log").read_text()
