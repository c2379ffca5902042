# SPDX-License-Identifier: Apache-2.0
"""The numbers for Prometheus: over a real Redis and a real socket, with the rights of a reader."""

from __future__ import annotations

import base64
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families

from farm.broker.acl import BY_NAME
from farm.broker.canaries import CanaryBook
from farm.broker.glance import Watcher
from farm.broker.jobs import Claim, JobState, JobStore
from farm.broker.register import DRAINED, Register
from farm.canary import CanaryState
from farm.contract.device import Announcement
from farm.errors import UnavailableError
from farm.monitoring.collector import DEVICE_STATES, bounded
from farm.monitoring.families import FAMILIES
from farm.monitoring.serve import make
from farm.settings import Settings
from farm.store import Store
from tests.factories import DEVICE, STACK, make_job

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@contextmanager
def served(settings: Settings) -> Iterator[str]:
    server = make(settings)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def url(settings: Settings, client: redis.Redis) -> Iterator[str]:
    with served(settings.model_copy(update={"metrics_port": 0})) as address:
        yield address


def fetch(url: str, login: str | None = None) -> str:
    request = urllib.request.Request(url)
    if login:
        request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(answer.read().decode())


def scrape(url: str) -> Samples:
    families = text_string_to_metric_families(fetch(url + "/metrics"))
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, tuple(sorted(labels.items()))))


def run(jobs: JobStore, job_id: str, outcomes: dict[str, int], end: JobState = JobState.DONE) -> None:
    jobs.dispatch(job_id, DEVICE.device_id)
    claim = jobs.claim(job_id, DEVICE.device_id, "me", 30)
    assert isinstance(claim, Claim)
    jobs.running(claim)
    assert jobs.finish(claim, end, {"outcomes": outcomes})


def test_a_farm_at_work_is_told_in_numbers(url: str, client: redis.Redis) -> None:
    register, jobs = Register(client), JobStore(client)
    register.announce(Announcement(DEVICE, [STACK], "0", 1))
    register.set_state(DEVICE.device_id, DRAINED, "new fan")
    CanaryBook(client).judged(DEVICE.device_id, CanaryState("steady", change=0.01, last_at="2026-03-01T10:00:00+00:00"))
    client.set("farm:scheduler", "{}")
    scrape(url)
    jobs.submit("s", "s", 5, [make_job(job_id=f"s-{n}", sweep_id="s") for n in range(4)])
    run(jobs, "s-0", {"ok": 2, "out_of_memory": 1})
    jobs.dispatch("s-1", DEVICE.device_id)
    assert isinstance(jobs.claim("s-1", DEVICE.device_id, "me", 30), Claim)
    found = scrape(url)
    own = {"device": DEVICE.device_id}
    assert value(found, "inferfarm_queue_depth", target=f"dev:{DEVICE.device_id}") == 2
    assert [value(found, "inferfarm_jobs", state=s) for s in ("queued", "claimed", "done", "failed")] == [2, 1, 1, 0]
    assert value(found, "inferfarm_known_runs", outcome="out_of_memory") == 1
    assert value(found, "inferfarm_runs_total", **own, outcome="ok") == 2
    assert value(found, "inferfarm_runs_total", **own, outcome="crashed") == 0
    assert value(found, "inferfarm_job_duration_seconds_count", **own) == 1
    assert value(found, "inferfarm_device_jobs", **own, state="claimed") == 1
    states = {s: value(found, "inferfarm_device_state", **own, **{"class": "cpu-test"}, state=s) for s in DEVICE_STATES}
    assert states == {"ready": 0, "drained": 1, "maintenance": 0, "quarantined": 0}
    assert value(found, "inferfarm_device_online", **own, **{"class": "cpu-test"}) == 1
    assert value(found, "inferfarm_canary_verdict", **own, verdict="steady") == 1
    assert value(found, "inferfarm_canary_change_ratio", **own) == 0.01
    assert 0 <= (value(found, "inferfarm_lease_age_seconds", **own) or 0) < 30
    assert 0 < (value(found, "inferfarm_lease_left_seconds", **own) or 0) <= 30
    assert value(found, "inferfarm_scheduler_up") == 1
    assert value(found, "inferfarm_nightly_up") == 0
    assert value(found, "inferfarm_sweeps", state="open") == 1


def test_a_job_that_is_tried_again_counts_again_and_what_ended_before_does_not(client: redis.Redis) -> None:
    jobs = JobStore(client)
    jobs.submit("s", "s", 5, [make_job(job_id="s-0", sweep_id="s")])
    run(jobs, "s-0", {"failed": 1})
    watcher = Watcher(client)
    assert watcher.look().ended == ()
    assert watcher.look().outcomes == Counter({"failed": 1})
    jobs.retry(make_job(job_id="s-0", sweep_id="s"))
    run(jobs, "s-0", {"ok": 3})
    look = watcher.look()
    assert [(job.device_id, dict(job.outcomes)) for job in look.ended] == [(DEVICE.device_id, {"ok": 3})]
    assert look.outcomes == Counter({"ok": 3})
    assert watcher.look().ended == ()


def test_what_a_worker_wrote_and_is_no_outcome_makes_no_label(client: redis.Redis) -> None:
    jobs = JobStore(client)
    jobs.submit("s", "s", 5, [make_job(job_id=f"s-{n}", sweep_id="s") for n in range(3)])
    run(jobs, "s-0", {"made-up": 7})
    client.hset("farm:job:s-1", mapping={"state": "done", "summary": "[1"})
    client.hset("farm:job:s-2", mapping={"state": "no-state"})
    assert Watcher(client).look().outcomes == Counter({"lost": 2})


def test_the_last_night_is_told(url: str, settings: Settings) -> None:
    store = Store(settings.store_dir)
    store.create()
    run = {"schema": 1, "state": "done", "began_at": "2026-03-02T02:00:00+00:00", "outcomes": {"ok": 3, "failed": 1}}
    run |= {"ended_at": "2026-03-02T04:00:00+00:00", "missing": {"j": "no device"}}
    for name in ("2026-03-01", "2026-03-02"):
        events = [{"state": "new"}, {"state": "accepted"}] if name.endswith("02") else []
        store.nights.write(name, {"schema": 1, "run": run, "events": events})
    found = scrape(url)
    assert value(found, "inferfarm_night_records", which="all") == 4
    assert value(found, "inferfarm_night_records", which="ok") == 3
    assert value(found, "inferfarm_night_missing_jobs") == 1
    assert value(found, "inferfarm_night_events", state="new") == 1
    began, ended = (value(found, "inferfarm_night_timestamp_seconds", moment=m) for m in ("began", "ended"))
    assert ended is not None and began is not None and ended - began == 7200


def test_without_its_broker_it_says_so_and_goes_on(url: str, broker: object) -> None:
    assert value(scrape(url), "inferfarm_broker_up") == 1
    broker.stop()  # type: ignore[attr-defined]
    found = scrape(url)
    assert value(found, "inferfarm_broker_up") == 0
    assert value(found, "inferfarm_jobs", state="queued") is None


def test_every_name_that_is_served_is_in_the_table_and_has_its_labels(url: str, client: redis.Redis) -> None:
    Register(client).announce(Announcement(DEVICE, [STACK], "0", 1))
    for family in text_string_to_metric_families(fetch(url + "/metrics")):
        name = family.name if family.name in FAMILIES else f"{family.name}_total"
        assert family.type == FAMILIES[name].kind, name
        assert family.documentation == FAMILIES[name].meaning
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(FAMILIES[name].labels), name


def test_an_open_address_asks_for_the_password_that_it_made(settings: Settings, client: redis.Redis) -> None:
    there = settings.model_copy(update={"metrics_port": 0, "metrics_address": "0.0.0.0"})
    with served(there) as url:
        password = (settings.home / "metrics.password").read_text().strip()
        assert (settings.home / "metrics.password").stat().st_mode & 0o777 == 0o600
        for login in (None, "farm:wrong", f"other:{password}", "no-colon"):
            with pytest.raises(urllib.error.HTTPError, match="401"):
                fetch(f"{url}/metrics", login)
        assert "inferfarm_broker_up 1.0" in fetch(f"{url}/metrics", f"farm:{password}")
        assert fetch(f"{url}/healthz") == "OK\n"
        with pytest.raises(urllib.error.HTTPError, match="404"):
            fetch(f"{url}/else", f"farm:{password}")


def test_an_address_that_is_taken_is_refused_with_a_remedy(settings: Settings, client: redis.Redis) -> None:
    with served(settings.model_copy(update={"metrics_port": 0})) as url:
        port = int(url.rpartition(":")[2])
        with pytest.raises(UnavailableError, match="cannot be served") as caught:
            make(settings.model_copy(update={"metrics_port": port}))
        assert "FARM_METRICS_PORT" in str(caught.value.hint)


def as_reader(settings: Settings, client: redis.Redis, tmp_path: Path) -> Settings:
    """Settings of a reader's user. The embedded server has ACL users, too: the rule that a real one gets."""
    rules = BY_NAME["reader"].rules.split()
    words, selectors, open_ = list[str](), list[str](), False
    for word in rules:  # `(+a ~b)` is one argument
        if open_:
            selectors[-1] += f" {word}"
        elif word.startswith("("):
            selectors.append(word)
        else:
            words.append(word)
            continue
        open_ = not word.endswith(")")
    client.execute_command("ACL", "SETUSER", "reader", "reset", "on", ">a-password-of-mine-1", *words, *selectors)
    (tmp_path / "p").write_text("a-password-of-mine-1")
    kwargs = client.connection_pool.connection_kwargs
    address = f"redis+socket://{kwargs['path']}" if "path" in kwargs else f"redis://127.0.0.1:{kwargs['port']}/0"
    changes = {"broker_url": address, "broker_user": "reader", "broker_password_file": tmp_path / "p"}
    return settings.model_copy(update=changes)


def refused(client: redis.Redis) -> list[object]:
    """The server's list of refusals, but those of what newer clients say of themselves."""
    newer = ("client|setinfo", "client|maint_notifications")
    return [entry for entry in client.acl_log() if entry["object"] not in newer]


def test_a_readers_user_is_refused_nothing(settings: Settings, client: redis.Redis, tmp_path: Path) -> None:
    jobs = JobStore(client)
    jobs.submit("s", "s", 5, [make_job(job_id="s-0", sweep_id="s")])
    Register(client).announce(Announcement(DEVICE, [STACK], "0", 1))
    run(jobs, "s-0", {"ok": 1})
    reader = as_reader(settings, client, tmp_path)
    with served(reader.model_copy(update={"metrics_port": 0})) as url:
        found = scrape(url)
    assert value(found, "inferfarm_broker_up") == 1
    assert value(found, "inferfarm_known_runs", outcome="ok") == 1
    assert refused(client) == []


def test_labels_are_bounded() -> None:
    counts = {f"dev:{n:03}": n + 1 for n in range(10)}
    assert bounded(counts, 3) == {"dev:009": 10, "dev:008": 9, "dev:007": 8, "other": 28}
    assert bounded(counts, 10) == counts
