# SPDX-License-Identifier: Apache-2.0
"""A Redis with TLS and the farm's ACL users: what each role may not do, and one clear error for each way to fail."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from farm.broker.connection import broker_url, connect, is_refusal
from farm.broker.jobs import Claim, JobState, JobStore, RenewAnswer
from farm.broker.register import MAINTENANCE, Register
from farm.contract.codec import to_json
from farm.contract.device import Announcement, DeviceInfo
from farm.errors import UnavailableError, UsageError
from farm.settings import Settings
from tests.broker.test_jobs import job
from tests.security.tls_server import TlsServer, make_authority, make_certificate, running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsServer]:
    directory = tmp_path_factory.mktemp("tls")
    base = Settings(home=directory / "home", lock_dir=directory / "locks", idle_wait_s=0, suspect_retries=0)
    with running(directory, base) as server:
        yield server


@pytest.fixture
def clean(server: TlsServer) -> Iterator[TlsServer]:
    """The server with nothing in it."""
    admin = connect(server.settings("admin"))
    admin.flushall()
    admin.acl_log_reset()
    yield server


def client(server: TlsServer, role: str) -> redis.Redis:
    return connect(server.settings(role))


@contextmanager
def refused() -> Iterator[None]:
    """The server refuses what the block does: as a command, or inside a script."""
    with pytest.raises(redis.RedisError) as caught:
        yield
    assert is_refusal(caught.value), caught.value


def jobs(server: TlsServer, role: str) -> JobStore:
    return JobStore(client(server, role))


@pytest.mark.parametrize("at_once", [False, True], ids=["stopped", "killed"])
def test_a_server_with_these_users_reads_all_of_its_file_again(clean: TlsServer, at_once: bool) -> None:
    """It reads it as the user `default`, which is off: transactions were refused, and every job was gone."""
    jobs(clean, "submitter").submit("s", "s", 5, [job("j1"), job("j2")])
    jobs(clean, "scheduler").dispatch("j1", "d")
    with client(clean, "scheduler").pipeline(transaction=True) as both:
        both.set("farm:rebuilt", 1).lpush("dev.d", "message").execute()
    clean.stop(at_once=at_once)
    clean.start()
    assert [view.state for view in jobs(clean, "reader").sweep_jobs("s")] == [JobState.DISPATCHED, JobState.QUEUED]
    admin = client(clean, "admin")
    assert (admin.get("farm:rebuilt"), admin.llen("dev.d")) == ("1", 1)
    assert "NOPERM" not in (clean.directory / "server.log").read_text()
    with pytest.raises(redis.AuthenticationError):
        client(clean, "scheduler").execute_command("AUTH", "default", "")


def test_a_job_goes_from_submitter_to_scheduler_to_worker_with_no_refusal(clean: TlsServer) -> None:
    announced = Announcement(DeviceInfo("d", "cpu-x", "cpu", "h", "X"), [], "0.1.0", 1)
    Register(client(clean, "worker")).announce(announced)
    assert [entry.device_id for entry in Register(client(clean, "submitter")).devices()] == ["d"]
    Register(client(clean, "submitter")).set_state("d", "drained", "new fan")
    jobs(clean, "submitter").submit("s", "s", 5, [job("j1"), job("j2"), job("j3")])
    jobs(clean, "submitter").set_priority("s", 7)
    scheduler, worker = jobs(clean, "scheduler"), jobs(clean, "worker")
    assert [head.job_id for head in scheduler.heads()] == ["j1"]
    assert scheduler.dispatch("j1", "d")
    claim = worker.claim("j1", "d", "me", 30)
    assert isinstance(claim, Claim)
    assert worker.running(claim)
    assert worker.renew(claim, 30) is RenewAnswer.HELD
    Register(client(clean, "submitter")).set_state("d", MAINTENANCE, "new fan", by="ann", until_s=1.0)
    assert worker.renew(claim, 30, 0.0) is RenewAnswer.HAND_BACK
    assert Register(client(clean, "scheduler")).end_maintenance("d", "resumed")
    Register(client(clean, "scheduler")).settle_in("d")
    worker.progress(claim, {"stage": "measure"})
    assert worker.release(claim, "drained")
    assert scheduler.dispatch("j1", "d")
    assert scheduler.recall("j1")
    assert scheduler.dispatch("j1", "d")
    again = worker.claim("j1", "d", "me", 30)
    assert isinstance(again, Claim)
    assert worker.finish(again, JobState.FAILED, {})
    assert jobs(clean, "submitter").retry(job("j1")) == "queued"
    assert jobs(clean, "submitter").cancel("j2") is JobState.CANCELLED
    assert scheduler.dispatch("j3", "d")
    assert isinstance(worker.claim("j3", "d", "gone", 30), Claim)
    assert worker.disown("d", "me") == 1
    assert scheduler.reap(3) == [("j3", JobState.QUEUED)]
    assert [view.job_id for view in jobs(clean, "reader").sweep_jobs("s")] == ["j1", "j2", "j3"]
    assert jobs(clean, "reader").sweeps()[0].priority == 7
    Register(client(clean, "worker")).withdraw("d")
    assert clean.refusals() == []


def test_a_worker_cannot_submit(clean: TlsServer) -> None:
    with refused():
        jobs(clean, "worker").submit("s", "s", 5, [job("j1")])
    assert jobs(clean, "reader").sweeps() == []
    assert jobs(clean, "reader").get("j1") is None


def test_a_worker_cannot_change_what_a_job_is(clean: TlsServer) -> None:
    jobs(clean, "submitter").submit("s", "s", 5, [job("j1"), job("j2")])
    jobs(clean, "submitter").cancel("j2")
    worker = client(clean, "worker")
    text = json.dumps(to_json(job("j1", device="mine")))
    for write in (
        lambda: worker.set("farm:spec:j1", text),
        lambda: worker.delete("farm:spec:j1"),
        lambda: worker.eval("return redis.call('SET','farm:spec:j1',ARGV[1])", 0, text),
        lambda: worker.register_script("return redis.call('SET','farm:spec:j1',ARGV[1])")(args=[text]),
        lambda: jobs(clean, "worker").retry(job("j2", device="mine")),
        lambda: jobs(clean, "worker").set_priority("s", 1),
        lambda: worker.delete("farm:job:j1"),
    ):
        with refused():
            write()
    # What it can write are states; a hash of its own making is no job, since it has no spec.
    worker.hset("farm:job:forged", mapping={"spec": text, "state": "queued", "sweep": "s", "target": "dev:d"})
    assert [view.spec for view in jobs(clean, "scheduler").sweep_jobs("s")] == [job("j1"), job("j2")]
    assert jobs(clean, "scheduler").get("forged") is None


def test_a_reader_cannot_write(clean: TlsServer) -> None:
    jobs(clean, "submitter").submit("s", "s", 5, [job("j1")])
    reader = client(clean, "reader")
    for write in (
        lambda: reader.set("farm:x", "1"),
        lambda: reader.hset("farm:job:j1", "state", "done"),
        lambda: reader.lpush("dev.d", "x"),
        lambda: reader.publish("/0.celery.pidbox", "x"),
        lambda: reader.get("dev.d"),
        lambda: jobs(clean, "reader").cancel("j1"),
        lambda: Register(reader).set_state("d", "drained", None),
    ):
        with refused():
            write()
    assert [view.state for view in jobs(clean, "reader").sweep_jobs("s")] == [JobState.QUEUED]


@pytest.mark.parametrize("role", ["scheduler", "worker", "submitter", "reader", "flower"])
def test_no_role_may_touch_the_server_itself(clean: TlsServer, role: str) -> None:
    for words in (
        ["FLUSHALL"],
        ["CONFIG", "GET", "*"],
        ["KEYS", "*"],
        ["ACL", "LIST"],
        ["SHUTDOWN"],
        ["EVAL", "return 1", "0"],
    ):
        with refused():
            client(clean, role).execute_command(*words)
    with refused():
        client(clean, role).set("somebody-elses", "1")


@pytest.mark.parametrize("role", ["submitter", "reader", "worker", "scheduler"])
def test_no_role_but_flower_may_speak_to_remote_control(clean: TlsServer, role: str) -> None:
    with refused():
        client(clean, role).publish("/0.celery.pidbox", "{}")


def test_another_authority_is_refused_with_one_error(server: TlsServer, tmp_path: Path) -> None:
    make_authority(tmp_path, "other")
    with pytest.raises(UnavailableError, match="does not answer") as caught:
        connect(server.settings("reader", broker_ca_file=tmp_path / "other.crt"))
    assert "certificate verify failed" in caught.value.message
    assert "FARM_BROKER_CA_FILE" in str(caught.value.hint)


def test_a_server_under_another_name_is_refused(server: TlsServer) -> None:
    elsewhere = f"rediss://localhost:{server.port}/0"
    with pytest.raises(UnavailableError, match=r"(?i)hostname mismatch|not valid for 'localhost'"):
        connect(server.settings("reader", broker_url=elsewhere))


def test_a_client_without_a_certificate_of_ours_is_refused(server: TlsServer, tmp_path: Path) -> None:
    make_authority(tmp_path, "other")
    make_certificate(tmp_path, "foreign", "other")
    foreign = {"broker_cert_file": tmp_path / "foreign.crt", "broker_key_file": tmp_path / "foreign.key"}
    for files in ({"broker_cert_file": None, "broker_key_file": None}, foreign):
        with pytest.raises(UnavailableError, match="does not answer"):
            connect(server.settings("reader", **files))


def test_plain_tcp_is_refused(server: TlsServer) -> None:
    plain = {"broker_url": f"redis://127.0.0.1:{server.port}/0"}
    none = {"broker_ca_file": None, "broker_cert_file": None, "broker_key_file": None}
    with pytest.raises(UnavailableError, match="does not answer"):
        connect(server.settings("reader", **plain, **none))
    with pytest.raises(UsageError, match="without TLS"):
        connect(server.settings("reader", **plain))


def test_a_wrong_password_is_refused_and_in_no_error(server: TlsServer, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text("wrong-horse-battery\n")
    with pytest.raises(UnavailableError) as caught:
        connect(server.settings("reader", broker_password_file=tmp_path / "wrong"))
    assert "FARM_BROKER_USER" in str(caught.value.hint)
    assert "wrong-horse" not in str(caught.value)


def test_nobody_is_the_default_user(server: TlsServer) -> None:
    with pytest.raises(UnavailableError):
        connect(server.settings("reader", broker_user=None, broker_password_file=None))


def test_celery_would_check_the_certificate_too(server: TlsServer, tmp_path: Path) -> None:
    """kombu checks nothing on a bare rediss:// URL; ours carries the checks."""
    from kombu.exceptions import OperationalError

    from farm.broker.celery_app import make_app

    make_authority(tmp_path, "other")
    for authority, good in (("ca.crt", True), (str(tmp_path / "other.crt"), False)):
        settings = server.settings("scheduler", broker_ca_file=server.directory / authority)
        app = make_app(settings, broker_url(settings))
        with app.connection() as connection:
            if good:
                connection.ensure_connection(max_retries=1)
            else:
                with pytest.raises(OperationalError, match="certificate"):
                    connection.ensure_connection(max_retries=1, interval_start=0)
        app.close()


def test_the_passwords_are_private_and_not_in_the_acl_file(server: TlsServer) -> None:
    printed = (server.directory / "users.acl").read_text()
    files = sorted((server.directory / "passwords").iterdir())
    assert len(files) == 7
    for file in files:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert file.read_text().strip() not in printed
