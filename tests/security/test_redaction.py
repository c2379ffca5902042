# SPDX-License-Identifier: Apache-2.0
"""Secrets are in no log, record, argument, error or traceback. One test reads all that a whole farm leaves behind."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from farm import secrets
from farm.api import Farm
from farm.broker.connection import redact
from farm.broker.embedded import EmbeddedBroker
from farm.errors import UnavailableError, UsageError
from farm.local import LocalFarm
from farm.settings import Settings, load_settings

#: With characters that a URL, a shell and repr() each write in another way.
MARK = "MARK-ed/s3cret%40 'quoted' word"
SPELLINGS = [MARK, "MARK-ed", "s3cret"]


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave nothing of these tests in the process: what it knows, how it logs."""
    factory, hook = logging.getLogRecordFactory(), sys.excepthook
    monkeypatch.setattr(secrets, "_known", set())
    yield
    logging.setLogRecordFactory(factory)
    sys.excepthook = hook


def shows(text: str) -> bool:
    return any(word in text for word in SPELLINGS)


def test_a_known_secret_is_hidden_however_it_is_spelt() -> None:
    secrets.know(MARK)
    for text in (MARK, f"a {MARK!r}", "x MARK-ed%2Fs3cret%2540%20%27quoted%27%20word y", f"redis://u:{MARK}@h"):
        assert not shows(secrets.hide(text)), text


@pytest.mark.parametrize("url", [
    "redis://:s3cret@h:1/0", "rediss://user:s3cret@h/0", "cannot reach http://u:s3cret@h, sorry", "'amqp://u:s3cret@'",
])  # fmt: skip
def test_the_password_of_any_url_is_hidden_unknown_or_not(url: str) -> None:
    assert not shows(secrets.hide(url))
    assert secrets.hide("see http://host:80/a@b") == "see http://host:80/a@b"


def test_no_log_record_of_any_library_shows_one(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)  # libraries of other tests may have set another
    secrets.know(MARK)
    log = logging.getLogger("somebody.else")
    try:
        raise ValueError(f"could not use {MARK}")
    except ValueError:
        log.exception("failed with %s", MARK)
    log.warning("%(a)s", {"a": MARK})
    log.warning("%d is a fault of the caller", 7)
    assert not shows(caplog.text)
    assert "7 is a fault of the caller" in caplog.text
    assert "Traceback" in caplog.text


def test_settings_show_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARM_BROKER_PASSWORD", MARK)
    settings = load_settings()
    assert settings.broker_password is not None
    assert settings.broker_password.get_secret_value() == MARK
    assert not shows(repr(settings) + str(settings) + settings.model_dump_json() + str(settings.environment()))


def test_an_error_about_settings_shows_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "farm.toml").write_text('broker_password = ["s3cret"]\nbroker_url = ["redis://:s3cret@h"]\n')
    monkeypatch.setenv("FARM_CONFIG", str(tmp_path / "farm.toml"))
    with pytest.raises(UsageError) as caught:
        load_settings()
    assert len(caught.value.problems) == 2
    assert not shows(" ".join(caught.value.problems))


def test_a_url_is_shown_without_its_password_and_paths() -> None:
    assert redact("rediss://u:s3cret@h:1/0?ssl_keyfile=/k") == "rediss://u:***@h:1/0"


def test_a_secrets_file_that_is_empty_or_no_text_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("empty", "binary", "missing"):
        with pytest.raises(UnavailableError, match="password file"):
            secrets.read_secret(tmp_path / name, "the password file", "FARM_X")


def test_a_private_file_is_private_also_where_an_open_one_was(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("old")
    (tmp_path / "p").chmod(0o644)
    secrets.private_file(tmp_path / "p", "new")
    assert (tmp_path / "p").stat().st_mode & 0o777 == 0o600


def run(settings: Settings, *words: str) -> str:
    command = [sys.executable, "-m", "farm.cli.main", *words]
    done = subprocess.run(command, env=os.environ | settings.environment(), capture_output=True, text=True, timeout=120)
    return done.stdout + done.stderr


def arguments_of_children() -> str:
    children = psutil.Process().children(recursive=True)
    said = []
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):  # ended meanwhile, waited for or not
            said.append(" ".join(child.cmdline()))
    return "\n".join(said)


def test_all_that_a_farm_writes_says_or_starts_shows_no_password(settings: Settings, tmp_path: Path) -> None:
    """Password in the broker's file as an operator might choose it; the farm runs, is asked, breaks, and is read."""
    EmbeddedBroker(settings)._prepare()
    (settings.home / "broker/password").write_text("MARK-ed_s3cret")
    sweep = tmp_path / "marked.yaml"
    sweep.write_text(
        "name: marked\nprotocol: {base: quick, warmup_min_s: 0.0, min_s: 0.0}\nmodels: [resnet18]\n"
        "workflows: [fake, {name: fake, behaviour: raise}]\nprecisions: [fp32]\nbatch: [1]\n"
    )
    said: list[str] = []
    with LocalFarm(settings, flower=True, listen="0.0.0.0", say=said.append):
        farm = Farm(settings)
        submission = farm.submit(sweep)
        for _ in farm.watch(submission.sweep_id, limit_s=240):
            said.append(arguments_of_children())
        for words in (["doctor"], ["doctor", "--format", "json"], ["devices"], ["status"], ["--debug", "status", "no"]):
            said.append(run(settings, *words))
        assert "marked" in said[-2]
    # The broker is gone and its address is still known: every part's and command's words about that.
    broker = EmbeddedBroker(settings)
    broker.start()
    address = (settings.run_dir / "broker.json").read_text()
    broker.stop()
    (settings.run_dir / "broker.json").write_text(address)
    said += [run(settings, "--debug", verb) for verb in ("status", "worker", "scheduler", "doctor")]
    assert "does not answer" in said[-1]
    assert not [text for text in said if shows(text)]
    allowed = {settings.home / "broker/password", settings.home / "broker/server.conf"}
    files = [path for path in settings.home.rglob("*") if path.is_file() and path not in allowed]
    assert any(path.suffix == ".json" and "records" in path.parts for path in files)
    assert any(path.name == "worker.log" for path in files)
    assert [path for path in files if shows(path.read_bytes().decode("latin-1"))] == []
