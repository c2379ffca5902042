# SPDX-License-Identifier: Apache-2.0
"""Flower below a path behind a reverse proxy: a real Flower, and a proxy that hands on that path and no other."""

from __future__ import annotations

import http.client
import os
import re
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from farm.broker.embedded import EmbeddedBroker
from farm.errors import UnavailableError, UsageError
from farm.healthcheck import check
from farm.settings import Settings, load_settings
from tests.e2e.conftest import wait_for


@pytest.fixture
def proxied(broker: EmbeddedBroker, settings: Settings, tmp_path: Path) -> Iterator[tuple[str, Settings]]:
    """The proxy's address, and Flower's settings."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    there = settings.model_copy(update={"flower_url_prefix": "/lab/flower", "flower_port": port})
    own = {"FARM_FLOWER_URL_PREFIX": "/lab/flower", "FARM_FLOWER_PORT": str(port)}
    with (tmp_path / "flower.log").open("wb") as log:
        command = [sys.executable, "-m", "farm.cli.main", "flower"]
        process = subprocess.Popen(command, env=os.environ | settings.environment() | own, stdout=log, stderr=log)

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self.path.startswith("/lab/flower"):
                self.send_error(404, "not Flower's")
                return
            with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as upstream:
                upstream.request("GET", self.path, headers={"Host": str(self.headers["Host"])})
                answer = upstream.getresponse()
                body = answer.read()
            self.send_response(answer.status)
            for name in ("Content-Type", "Location"):
                if answer.headers[name]:
                    self.send_header(name, answer.headers[name])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: object) -> None:
            pass

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        wait_for(lambda: is_well(there), "Flower")
        yield f"http://127.0.0.1:{proxy.server_address[1]}", there
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()
        process.terminate()
        process.wait(timeout=120)


def is_well(settings: Settings) -> bool:
    try:
        return bool(check(settings, "flower"))
    except UnavailableError:
        return False


def test_every_page_and_all_that_it_loads_comes_through_the_proxy(proxied: tuple[str, Settings]) -> None:
    url, _ = proxied
    for page in ("workers", "tasks", "broker"):
        with urllib.request.urlopen(f"{url}/lab/flower/{page}", timeout=30) as answer:
            text = answer.read().decode()
        named = [link for link in re.findall(r'(?:href|src)="([^"#]+)"', text) if not urlsplit(link).netloc]
        own = [link for link in named if link.startswith("/")]
        assert own and [link for link in own if not link.startswith("/lab/flower")] == []
        for link in {link for link in own if "/static/" in link}:
            with urllib.request.urlopen(url + link, timeout=30) as answer:
                assert answer.read()
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{url}/workers", timeout=30)


@pytest.mark.parametrize("prefix", ["flower", "/flower/", "/a b", "//x"])
def test_a_prefix_that_is_no_path_is_refused(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARM_FLOWER_URL_PREFIX", prefix)
    with pytest.raises(UsageError) as caught:
        load_settings()
    assert caught.value.problems[0].startswith("flower_url_prefix: ")
