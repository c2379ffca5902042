# SPDX-License-Identifier: Apache-2.0
"""Flower asks for a login wherever another machine could reach it, and its password is shown nowhere."""

from __future__ import annotations

import base64
import os
import socket
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from farm.broker.embedded import EmbeddedBroker
from farm.broker.flower import flower_arguments, needs_login
from farm.errors import UsageError
from farm.settings import Settings
from tests.e2e.conftest import wait_for


def get(url: str, login: str | None = None) -> int:
    request = urllib.request.Request(url)
    if login:
        request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@pytest.fixture
def open_flower(broker: EmbeddedBroker, settings: Settings, tmp_path: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Flower on every address of this machine, as `farm flower --address 0.0.0.0` starts it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "farm.cli.main", "flower", "--address", "0.0.0.0", "--port", str(port)]
    with (tmp_path / "flower.log").open("wb") as log:
        process = subprocess.Popen(command, env=os.environ | settings.environment(), stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: get(f"{url}/healthcheck") == 200, "Flower")
        yield url, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(timeout=120)


def test_on_an_open_address_it_asks_for_the_password_that_it_made(
    open_flower: tuple[str, psutil.Process], settings: Settings, tmp_path: Path
) -> None:
    url, process = open_flower
    file = settings.home / "flower.password"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    password = file.read_text().strip()
    for page in ("/workers", "/tasks", "/api/tasks", "/metrics"):
        assert get(url + page) == 401, page
        assert get(url + page, "farm:wrong-password") == 401, page
        assert get(url + page, f"farm:{password}") == 200, page
    assert password not in " ".join(process.cmdline())
    assert password not in (tmp_path / "flower.log").read_text()


@pytest.mark.parametrize(("address", "asked"), [
    ("127.0.0.1", False), ("::1", False), ("localhost", False), ("127.0.0.2", False), ("0.0.0.0", True), ("", True),
    ("192.168.1.5", True), ("lab1", True), ("::", True),
])  # fmt: skip
def test_a_login_is_asked_for_on_every_address_but_loopback(settings: Settings, address: str, asked: bool) -> None:
    there = settings.model_copy(update={"flower_address": address})
    assert needs_login(there) is asked
    assert any(word.startswith("--basic_auth=farm:") for word in flower_arguments(there)) is asked


def test_a_password_file_asks_for_the_login_on_loopback_too(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "p").write_text("a-long-password\n")
    changes = {"flower_password_file": tmp_path / "p", "flower_user": "me"}
    assert "--basic_auth=me:a-long-password" in flower_arguments(settings.model_copy(update=changes))


@pytest.mark.parametrize("text", ["short", "a,comma,in,a,password", "a\tcontrol\tcharacter"])
def test_a_password_that_would_not_hold_is_refused_unshown(settings: Settings, tmp_path: Path, text: str) -> None:
    (tmp_path / "p").write_text(text)
    with pytest.raises(UsageError, match="Flower's password") as caught:
        flower_arguments(settings.model_copy(update={"flower_password_file": tmp_path / "p"}))
    assert text not in str(caught.value)


@pytest.mark.parametrize("changes", [
    {"flower_password_file": Path("/no/such/file")},
    {"flower_cert_file": Path("/etc/hostname")},
    {"flower_cert_file": Path("/no/such"), "flower_key_file": Path("/no/such")},
])  # fmt: skip
def test_half_a_setting_does_not_start_it_open(settings: Settings, changes: dict[str, Path]) -> None:
    with pytest.raises(UsageError):
        flower_arguments(settings.model_copy(update={"flower_address": "0.0.0.0"} | changes))


SIGN_ON: dict[str, object] = {
    "flower_oauth_provider": "gitlab",
    "flower_oauth_allow": "ann@lab.example|bob@lab.example",
    "flower_oauth_client_id": "client-1",
    "flower_oauth_redirect_url": "https://farm.example/flower/login",
    "flower_url_prefix": "/flower",
}


def test_single_sign_on_takes_the_passwords_place_on_every_address(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "s").write_text("the-providers-secret\n")
    there = settings.model_copy(
        update=SIGN_ON | {"flower_oauth_secret_file": tmp_path / "s", "flower_address": "0.0.0.0"}
    )
    arguments = flower_arguments(there)
    assert needs_login(there)
    assert "--auth_provider=flower.views.auth.GitLabLoginHandler" in arguments
    assert "--auth=ann@lab.example|bob@lab.example" in arguments
    assert "--oauth2_secret=the-providers-secret" in arguments
    assert not any(word.startswith("--basic_auth") for word in arguments)


@pytest.mark.parametrize("provider", ["github", "gitlab", "google", "okta"])
def test_every_provider_is_one_of_flowers(settings: Settings, tmp_path: Path, provider: str) -> None:
    from celery.utils.imports import symbol_by_name

    (tmp_path / "s").write_text("the-providers-secret\n")
    changes = SIGN_ON | {"flower_oauth_secret_file": tmp_path / "s", "flower_oauth_provider": provider}
    (word,) = (w for w in flower_arguments(settings.model_copy(update=changes)) if w.startswith("--auth_provider="))
    assert symbol_by_name(word.partition("=")[2]).get


@pytest.mark.parametrize(("changes", "told"), [
    ({"flower_oauth_allow": ""}, "flower_oauth_allow is not set"),
    ({"flower_oauth_client_id": ""}, "flower_oauth_client_id is not set"),
    ({"flower_oauth_allow": ".*"}, "flower_oauth_allow: neither"),
    ({"flower_oauth_allow": "*@lab.example|ann@lab.example"}, "flower_oauth_allow: neither"),
    ({"flower_oauth_redirect_url": "http://farm.example/flower/login"}, "not https"),
    ({"flower_oauth_redirect_url": "https://farm.example/login"}, "its path is not /flower/login"),
])  # fmt: skip
def test_half_a_single_sign_on_starts_nothing(
    settings: Settings, tmp_path: Path, changes: dict[str, object], told: str
) -> None:
    (tmp_path / "s").write_text("the-providers-secret\n")
    with pytest.raises(UsageError) as caught:
        flower_arguments(settings.model_copy(update=SIGN_ON | {"flower_oauth_secret_file": tmp_path / "s"} | changes))
    assert any(told in problem for problem in caught.value.problems)
