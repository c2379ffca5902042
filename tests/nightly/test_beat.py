# SPDX-License-Identifier: Apache-2.0
"""Beat's one entry, the ticks that are let through, the locks, the unit."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from farm.broker.celery_app import make_app
from farm.broker.connection import broker_url, connect
from farm.broker.embedded import EmbeddedBroker
from farm.broker.transport import checked
from farm.contract.names import NIGHTLY_QUEUE, TASK_NIGHTLY
from farm.errors import UnavailableError, UsageError
from farm.settings import Settings
from farm.times import parse_times
from scheduler.leader import holder
from scheduler.nightly import units
from scheduler.nightly.beat import AT_LEAST_EVERY, NightTimes, build
from scheduler.nightly.lock import BEAT_KEY, NIGHT_KEY, Holding


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    base = tmp_path_factory.mktemp("broker")
    settings = Settings(home=base / "home", lock_dir=base / "locks")
    server = EmbeddedBroker(settings)
    server.start()
    yield settings
    server.stop()


def test_beat_has_one_entry_and_it_ticks_at_the_nights_time(settings: Settings) -> None:
    app = build(settings, "redis://localhost:1/0", lambda: None, threading.Event())
    assert [row["task"] for row in app.conf.beat_schedule.values()] == [TASK_NIGHTLY]
    assert app.conf.beat_schedule["nightly"]["options"] == {"queue": NIGHTLY_QUEUE}
    assert not app.conf.worker_enable_remote_control
    app.close()


def test_the_next_tick_is_the_nights_or_makes_up_for_a_lost_one() -> None:
    times = NightTimes(parse_times("02:00", "UTC"))
    before = datetime(2026, 11, 21, 1, 55, tzinfo=UTC)
    assert times.next_after(before) == datetime(2026, 11, 21, 2, 0, tzinfo=UTC)
    assert times.next_after(before + timedelta(hours=1)) == before + timedelta(hours=1) + AT_LEAST_EVERY


def test_a_tick_is_due_after_its_time_and_not_while_a_night_runs() -> None:
    busy = threading.Event()
    times = NightTimes(parse_times("02:00", "UTC"), busy.is_set)
    due, again_s = times.is_due(datetime.now(UTC) - 2 * AT_LEAST_EVERY)
    assert due
    assert 0 < again_s <= AT_LEAST_EVERY.total_seconds()
    busy.set()
    assert not times.is_due(datetime.now(UTC) - 2 * AT_LEAST_EVERY)[0]
    busy.clear()
    assert not times.is_due(datetime.now(UTC) - timedelta(milliseconds=1))[0]


@pytest.fixture
def tick(broker: Settings) -> dict[str, Any]:
    """A tick as beat sends it."""
    app = make_app(broker, broker_url(broker))
    app.send_task(TASK_NIGHTLY, queue=NIGHTLY_QUEUE, ignore_result=True)
    app.close()
    item = connect(broker).rpop(NIGHTLY_QUEUE)
    assert isinstance(item, str)
    return dict(json.loads(item))


def test_a_tick_is_let_through_and_names_nothing(tick: dict[str, Any]) -> None:
    made = checked(tick, TASK_NIGHTLY)
    assert json.loads(base64.b64decode(made["body"])) == [[], {}, {}]
    assert made["headers"]["task"] == TASK_NIGHTLY


@pytest.mark.parametrize("task", ["celery.map", "celery.chain", "workers.run_job", ""])
def test_no_other_task_is_let_into_the_nightlys_queue(tick: dict[str, Any], task: str) -> None:
    tick["headers"]["task"] = task
    with pytest.raises(ValueError, match=r"there is only farm\.nightly"):
        checked(tick, TASK_NIGHTLY)


def test_a_tick_brings_no_follow_up_task_and_no_words(tick: dict[str, Any]) -> None:
    chained = [[], {}, {"callbacks": [{"task": "celery.map"}]}]
    made = checked(tick | {"body": base64.b64encode(json.dumps(chained).encode()).decode()}, TASK_NIGHTLY)
    assert json.loads(base64.b64decode(made["body"])) == [[], {}, {}]
    words = base64.b64encode(json.dumps([["now"], {}, {}]).encode()).decode()
    with pytest.raises(ValueError, match="names something"):
        checked(tick | {"body": words}, TASK_NIGHTLY)


def test_a_lock_is_one_processs_and_is_kept_while_it_lives(broker: Settings) -> None:
    client = connect(broker)
    with Holding(client, NIGHT_KEY, ttl_s=2.0) as held:
        with pytest.raises(UnavailableError, match="another process runs the nightly"), Holding(client, NIGHT_KEY):
            pass
        threading.Event().wait(2.5)
        assert holder(client, NIGHT_KEY)
        assert not held.lost.is_set()
        with Holding(client, BEAT_KEY):
            assert holder(client, BEAT_KEY)
    assert holder(client, NIGHT_KEY) is None


def test_who_lost_the_lock_is_told(broker: Settings) -> None:
    client = connect(broker)
    with Holding(client, NIGHT_KEY, ttl_s=0.2) as held:
        client.set(NIGHT_KEY, json.dumps({"pid": 1, "host": ["elsewhere", ""], "token": "x"}))
        assert held.lost.wait(60)
    assert json.loads(str(client.get(NIGHT_KEY)))["token"] == "x"
    client.delete(NIGHT_KEY)


def test_the_unit_may_write_to_the_farm_alone(settings: Settings) -> None:
    text = units.unit(settings, user_unit=False, user="inferfarm", python="/opt/farm/bin/python")
    assert "ExecStart=/opt/farm/bin/python -m farm.cli.main nightly run --serve\n" in text
    assert "User=inferfarm\n" in text
    assert "Restart=always" in text
    assert "ProtectSystem=strict" in text
    (writable,) = [line for line in text.splitlines() if line.startswith("ReadWritePaths=")]
    paths = [settings.home, settings.store_dir, settings.nightly_report_dir]
    assert writable == "ReadWritePaths=" + " ".join(f"-{path}" for path in paths)
    assert "User=" not in units.unit(settings, user_unit=True, user="x")


def test_a_path_cannot_bring_lines_of_its_own_into_the_unit(settings: Settings) -> None:
    with pytest.raises(UsageError, match="cannot be written into a unit"):
        units.unit(settings, user_unit=False, user="x\nExecStartPre=/bin/evil")


def test_the_unit_is_written_where_it_is_wanted(settings: Settings, tmp_path: Path) -> None:
    path = units.write_unit(units.unit(settings, user_unit=True), tmp_path / "units")
    assert path.name == "farm-nightly.service"
    assert path.stat().st_mode & 0o777 == 0o644
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        units.write_unit("", tmp_path / "file" / "below")


def test_redis_away_is_no_lock(broker: Settings) -> None:
    gone = redis.Redis(port=1)
    with pytest.raises(redis.RedisError), Holding(gone, NIGHT_KEY):
        pass
