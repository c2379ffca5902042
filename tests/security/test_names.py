# SPDX-License-Identifier: Apache-2.0
"""Names from outside: the alphabets, where a path may lead, and that nothing is loaded that could run code."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from farm.broker.jobs import JobStore
from farm.broker.register import Register
from farm.contract.codec import to_json
from farm.contract.device import Announcement, DeviceInfo
from farm.contract.names import check_name, check_path
from farm.errors import UsageError
from farm.paths import inside
from farm.settings import Settings, load_settings
from farm.store import Store
from tests.broker.test_jobs import job

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("farm", "scheduler", "workers", "benchmarks", "tools")

BAD_NAMES = [
    "", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", "a\0b", "a\nb", "a b", "x" * 129, "a..b", "-x", ".x", "é",
    "re\u0455net",  # Cyrillic dze, which looks like s
    "\uff52\uff45\uff53",  # full width, which NFKC makes ASCII
    "e\u0301", "\u202egnp", "\u2024\u2024", "a\u2215b", "\ud800", "a\u200bb", "*", "dev:*", "~", "$(x)",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_bad_name_reaches_no_path(name: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with pytest.raises(ValueError, match="not allowed"):
        check_name(name, "name")
    for reach in (store.records.path, store.sweeps.path, store.blobs.path):
        with pytest.raises(UsageError):
            reach(name)


@given(st.text(max_size=150))
def test_what_is_allowed_is_one_plain_file_name(name: str) -> None:
    try:
        check_name(name, "name")
    except ValueError:
        return
    assert name.isascii()
    assert Path(name).name == name
    assert (Path("/base") / name).parent == Path("/base")


@pytest.mark.parametrize("path", [
    "../x", "a/../../x", "/etc/passwd", "a\0b", "a\nb", "x" * 256, "a/" * 600, "мodel.onnx", "e\u0301", "a\\..\\b", "",
    ".", "samples/..", "\ud800", "link/passwd", "loop/x",
])  # fmt: skip
def test_a_path_stays_inside_or_is_one_error(path: str, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "link").symlink_to("/etc")
    (base / "loop").symlink_to("loop")
    with pytest.raises(ValueError, match=r"not allowed|lies outside|cannot be followed"):
        inside(path, base)


def test_a_home_may_be_called_anything(tmp_path: Path) -> None:
    home = tmp_path / "jörg's häuschen"
    assert inside(f"{home}/cache/x.onnx", tmp_path / "work", home) == home / "cache/x.onnx"


@given(st.text(max_size=60))
def test_any_text_is_a_path_inside_or_one_error(text: str) -> None:
    try:
        found = inside(text, Path("/tmp/base-that-is-not"))
    except ValueError:
        return
    assert str(found).startswith("/tmp/base-that-is-not/")
    assert check_path(text, "path") == text


@pytest.mark.parametrize("field", ["job_id", "sweep_id"])
def test_a_job_in_redis_with_a_bad_name_is_no_job(client: redis.Redis, field: str) -> None:
    jobs = JobStore(client)
    jobs.submit("s", "s", 5, [job("good"), job("j1")])
    spec = to_json(job("j1")) | {field: "../../etc"}
    client.set("farm:spec:j1", json.dumps(spec))
    assert [view.job_id for view in jobs.sweep_jobs("s")] == ["good"]
    jobs.dispatch("j1", "d")
    with pytest.raises(ValueError, match="not allowed"):
        jobs.claim("j1", "d", "me", 30)


def test_a_device_in_redis_with_a_bad_or_another_name_is_no_device(client: redis.Redis) -> None:
    register = Register(client)
    for device_id in ("good", "../../x", "a b"):
        register.announce(Announcement(DeviceInfo(device_id, "c", "cpu", "h", "n"), [], "0.1.0", 1))
    client.sadd("farm:devices", "another", "empty")
    client.hset("farm:device:another", mapping=client.hgetall("farm:device:good"))
    client.hset("farm:device:empty", mapping={"announcement": "[" * 100_000, "seen": "x"})
    assert [entry.device_id for entry in register.devices()] == ["good"]


def test_a_stack_has_a_plain_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "farm.toml").write_text('[stacks."../x"]\npython = "python3"\n')
    monkeypatch.setenv("FARM_CONFIG", str(tmp_path / "farm.toml"))
    with pytest.raises(UsageError) as caught:
        load_settings()
    assert "not allowed" in str(caught.value.problems)


def test_an_index_names_only_files_of_its_own(settings: Settings) -> None:
    store = Store(settings.store_dir)
    store.create()
    store.index.refresh()
    current = settings.store_dir / "index/current.json"
    known = json.loads(current.read_text())
    for name in ("../../x.parquet", "part-x'; DROP.parquet", "a\0b", 7):
        current.unlink()
        current.write_text(json.dumps(known | {"parts": [name]}))
        assert store.index.query().rows == []


def calls() -> list[tuple[Path, ast.Call, str]]:
    found = []
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    found.append((path, node, ast.unparse(node.func)))
    return found


def keyword(call: ast.Call, name: str) -> str | None:
    return next((ast.unparse(k.value) for k in call.keywords if k.arg == name), None)


def test_nothing_is_loaded_that_can_run_code() -> None:
    seen = set()
    for path, call, name in calls():
        where = f"{path.relative_to(ROOT)}:{call.lineno}: {name}"
        if name == "torch.load":
            assert keyword(call, "weights_only") == "True", where
            seen.add(name)
        if name in ("np.load", "numpy.load"):
            assert keyword(call, "allow_pickle") == "False", where
            seen.add(name)
        assert name.split(".")[0] not in ("pickle", "cPickle", "dill", "marshal", "shelve", "joblib"), where
        assert name not in ("eval", "exec", "os.system", "yaml.load", "yaml.full_load", "yaml.unsafe_load"), where
        assert keyword(call, "shell") != "True", where
        if name.endswith(".extractall"):
            assert path.name == "archive.py", where
    assert {"torch.load", "np.load"} <= seen
