# SPDX-License-Identifier: Apache-2.0
"""The embedded broker: private, durable, one per home, and clear when it cannot start."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import redis

from farm.broker.connection import broker_url, connect, redact
from farm.broker.embedded import EmbeddedBroker
from farm.errors import UnavailableError, UsageError
from farm.settings import Settings


def test_what_was_written_survives_a_stop_and_the_port_stays(settings: Settings) -> None:
    first = EmbeddedBroker(settings)
    first.start()
    connect(settings).set("kept", "1")
    first.stop()
    second = EmbeddedBroker(settings)
    second.start()
    try:
        assert connect(settings).get("kept") == "1"
        assert second.port == first.port
    finally:
        second.stop()


def test_nobody_gets_in_without_the_password(broker: EmbeddedBroker) -> None:
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=broker.port).ping()


def test_its_files_are_private(broker: EmbeddedBroker, settings: Settings) -> None:
    for name in ("broker/password", "broker/server.conf", "run/broker.json"):
        assert stat.S_IMODE((settings.home / name).stat().st_mode) == 0o600


def test_a_second_one_on_the_same_home_is_refused(broker: EmbeddedBroker, settings: Settings) -> None:
    with pytest.raises(UnavailableError, match=r"runs in .* already"):
        EmbeddedBroker(settings).start()


def test_after_a_stop_there_is_no_broker_and_the_error_says_what_to_do(settings: Settings) -> None:
    server = EmbeddedBroker(settings)
    server.start()
    server.stop()
    with pytest.raises(UnavailableError, match="no broker") as caught:
        broker_url(settings)
    assert "farm up" in str(caught.value.hint)


def test_a_home_that_cannot_be_made_is_one_clear_error(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match="cannot use"):
        EmbeddedBroker(settings.model_copy(update={"home": tmp_path / "file" / "home"})).start()


def test_a_broker_that_does_not_answer_is_named_without_its_password(settings: Settings) -> None:
    away = settings.model_copy(update={"broker_url": "redis://:hunter2@127.0.0.1:1/0"})
    with pytest.raises(UnavailableError, match="does not answer") as caught:
        connect(away)
    assert "hunter2" not in str(caught.value)


def test_a_url_of_another_kind_is_refused(settings: Settings) -> None:
    with pytest.raises(UsageError, match="not a Redis URL"):
        broker_url(settings.model_copy(update={"broker_url": "amqp://host"}))


def test_redact_hides_only_the_password() -> None:
    assert redact("redis://user:secret@host:1/0") == "redis://user:***@host:1/0"
    assert redact("redis://host:1/0") == "redis://host:1/0"


def test_the_password_comes_from_its_file(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("p@ss/word\n")
    configured = settings.model_copy(
        update={"broker_url": "redis://host:1/0", "broker_password_file": tmp_path / "password"}
    )
    assert broker_url(configured) == "redis://:p%40ss%2Fword@host:1/0"
