# SPDX-License-Identifier: Apache-2.0
"""What somebody who can write to a device's queue can do: have a job named twice, and nothing else."""

from __future__ import annotations

import base64
import copy
import json
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery.worker.control import Panel

from farm.api import Farm
from farm.broker.celery_app import make_app
from farm.broker.connection import broker_url, connect
from farm.broker.jobs import JobState
from farm.broker.transport import checked
from farm.contract.names import device_queue
from farm.local import LocalFarm
from farm.settings import Settings
from scheduler.main import sender, writer
from tests.e2e.conftest import wait_for
from workers.app import REMOTE_CONTROL, _limit_remote_control


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Farm, LocalFarm]]:
    base = tmp_path_factory.mktemp("farm")
    settings = Settings(home=base / "home", lock_dir=base / "locks", lease_s=30, idle_wait_s=0, suspect_retries=0)
    with LocalFarm(settings) as parts:
        yield Farm(settings), parts


@pytest.fixture(scope="module")
def sound(local: tuple[Farm, LocalFarm], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A message as the farm sends it."""
    farm, _ = local
    client = connect(farm.settings)
    app = make_app(farm.settings, broker_url(farm.settings))
    sender(app)("no-such-job", "dev.nobody", "a name")
    app.close()
    item = client.rpop("dev.nobody")
    assert isinstance(item, str)
    message = json.loads(item)
    assert isinstance(message, dict)
    return message


def test_a_message_that_is_written_is_the_one_that_would_be_sent(
    local: tuple[Farm, LocalFarm], sound: dict[str, Any]
) -> None:
    farm, _ = local
    app = make_app(farm.settings, broker_url(farm.settings))
    written = json.loads(writer(app)("no-such-job", "dev.nobody", "a name"))
    app.close()

    def plain(message: dict[str, Any]) -> str:
        """Without what is drawn anew for each message, and the process it came from."""
        text = json.dumps(message, sort_keys=True)
        properties = message["properties"]
        for drawn in (message["headers"]["id"], properties["delivery_tag"], properties["reply_to"]):
            text = text.replace(drawn, "-")
        return text

    assert written["body"] == sound["body"]
    assert plain(written) == plain(sound)
    assert checked(written) | {"properties": 0, "headers": 0} == checked(sound) | {"properties": 0, "headers": 0}


def changed(message: dict[str, Any], change: Callable[[dict[str, Any]], Any]) -> str:
    other = copy.deepcopy(message)
    change(other)
    return json.dumps(other)


def hostile(sound: dict[str, Any], mark: Path) -> list[str | bytes]:
    """Messages of every kind that a worker must survive."""
    pickled = base64.b64encode(pickle.dumps(([Touch(mark)], {}, {}))).decode()
    kinds = [
        {"body": pickled, "content-type": "application/x-python-serialize", "content-encoding": "binary"},
        {"body": pickled, "content-type": "application/x-python-serialize"},
        {"body": pickled},
        {"body": "not base64!"},
        {"body": "e30="},
        {"content-type": "application/x-yaml"},
        {"content-encoding": "rot13"},
        {"headers": None},
        {"headers": {}},
        {"headers": {"task": "celery.map", "id": "x"}},
        {"headers": {"task": "workers.run_job"}},
        {"properties": {}},
        {"properties": []},
    ]
    far = {"eta": "2999-01-01T00:00:00+00:00", "timelimit": [0.001, 0.001], "expires": "2001-01-01T00:00:00"}
    texts: list[str | bytes] = [changed(sound, lambda m, k=kind: m.update(k)) for kind in kinds]  # type: ignore[misc]
    texts.append(changed(sound, lambda m: m["headers"].update(far)))
    texts.append(changed(sound, lambda m: m["headers"].update(retries="many", group=3, lang=7, chain=[1])))
    texts.append(changed(sound, lambda m: m["properties"].update(delivery_tag=7)))
    texts.append(changed(sound, lambda m: m["properties"].update(delivery_info={"exchange": [], "routing_key": 1})))
    texts += [b"", b"\x80\x04.", b"garbage", b"[]", b"7", b"{", b"null", b'"x"', b"[" * 100_000, b"\xed\xa0\x80"]
    return texts


def test_the_worker_survives_every_message_runs_none_and_goes_on(
    local: tuple[Farm, LocalFarm], sound: dict[str, Any], tmp_path: Path
) -> None:
    farm, parts = local
    worker = next(part for part in parts.parts if part.is_worker)
    raw = redis.Redis.from_url(broker_url(farm.settings))
    queue = device_queue(farm.devices()[0].device_id)
    mark = tmp_path / "mark"
    for text in hostile(sound, mark):
        raw.lpush(queue, text)
    wait_for(lambda: raw.llen(queue) == 0, "the worker to take them all")
    path = tmp_path / "after.yaml"
    path.write_text(
        "name: after\nprotocol: {base: quick, warmup_min_s: 0.0, min_s: 0.0}\nmodels: [resnet18]\n"
        "workflows: [{name: fake}]\nprecisions: [fp32]\nbatch: [1]\n"
    )
    for _ in farm.watch(farm.submit(path).sweep_id, limit_s=240):
        pass
    assert [view.state for view in farm.status("after")] == [JobState.DONE]
    assert worker.alive()
    assert worker.restarts == 0
    assert not mark.exists()
    log = worker.log.read_text()
    assert "only JSON is read" in log
    assert "no-such-job is not known here" in log  # the one with an ETA and a time limit ran at once, and was refused


def test_a_pickle_is_refused_by_celery_itself_too(settings: Settings) -> None:
    from kombu.exceptions import ContentDisallowed
    from kombu.serialization import loads

    app = make_app(settings, "redis://localhost:1/0")
    assert set(app.conf.accept_content) == {"json"}
    assert (app.conf.task_serializer, app.conf.event_serializer) == ("json", "json")
    with pytest.raises(ContentDisallowed):
        loads(pickle.dumps(1), "application/x-python-serialize", "binary", accept=app.conf.accept_content)
    app.close()


def test_a_sound_message_names_its_job_still_and_nothing_more(sound: dict[str, Any]) -> None:
    made = checked(sound)
    assert json.loads(base64.b64decode(made["body"])) == [["no-such-job"], {}, {}]
    for key in ("task", "id", "shadow", "eta", "expires", "retries"):
        assert made["headers"][key] == sound["headers"][key]
    assert set(made["headers"]) < set(sound["headers"])
    assert made["properties"]["delivery_info"] == sound["properties"]["delivery_info"]


def test_remote_control_only_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Panel, "data", dict(Panel.data))
    assert {"shutdown", "revoke", "terminate", "pool_restart", "add_consumer"} <= set(Panel.data)
    _limit_remote_control()
    assert set(Panel.data) <= REMOTE_CONTROL
    assert {"ping", "stats", "active", "enable_events"} <= set(Panel.data)
