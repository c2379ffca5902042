# SPDX-License-Identifier: Apache-2.0
"""Prepared files: found by what they depend on, whole or not at all, checked on every use."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.contract.canonical import canonical_json
from workers.workflows.cache import Cache
from workers.workflows.errors import NotPrepared
from workers.workflows.keys import ABSENT, described, differing, nearest

_KEY = {"model": "m", "versions": {"torch": "2"}}


def _cache(root: Path, writable: bool = True) -> Cache:
    return Cache(str(root), writable, time.perf_counter_ns)


class _Build:
    """Writes `text`, counts its calls."""

    def __init__(self, text: str = "content") -> None:
        self.text = text
        self.calls = 0

    def __call__(self, path: str) -> dict[str, Any]:
        self.calls += 1
        Path(path).write_text(self.text)
        return {"length": len(self.text)}


def test_a_file_is_made_once_and_then_found(tmp_path: Path) -> None:
    build = _Build()
    made = _cache(tmp_path).fetch("onnx", _KEY, "model.onnx", build)
    found = _cache(tmp_path).fetch("onnx", dict(reversed(_KEY.items())), "model.onnx", build)
    assert build.calls == 1
    assert (made.cached, found.cached) == (False, True)
    assert (made.path, made.sha256, made.facts, made.build_s) == (found.path, found.sha256, found.facts, found.build_s)
    assert Path(found.path).read_text() == "content"
    assert found.size_bytes == len("content")


@pytest.mark.parametrize(("kind", "key"), [("weights", _KEY), ("onnx", {**_KEY, "seed": 1}), ("onnx", {})])
def test_another_kind_or_key_is_another_file(tmp_path: Path, kind: str, key: dict[str, Any]) -> None:
    build = _Build()
    _cache(tmp_path).fetch("onnx", _KEY, "f", build)
    _cache(tmp_path).fetch(kind, key, "f", build)
    assert build.calls == 2


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "manifest", "manifest-json", "other-key", "field"])
def test_a_damaged_entry_is_built_again(tmp_path: Path, damage: str) -> None:
    build = _Build("x" * 100)
    entry = _cache(tmp_path).fetch("onnx", _KEY, "f", build)
    _damage(Path(entry.path), damage)
    again = _cache(tmp_path).fetch("onnx", _KEY, "f", build)
    assert build.calls == 2
    assert not again.cached
    assert Path(again.path).read_text() == "x" * 100
    assert _cache(tmp_path).fetch("onnx", _KEY, "f", build).cached
    assert [p.name for p in (tmp_path / "onnx").iterdir()] == [Path(entry.path).parent.name]


def _damage(path: Path, how: str) -> None:
    manifest = path.parent / "manifest.json"
    if how == "flip":
        path.write_bytes(b"X" + path.read_bytes()[1:])
    elif how == "truncate":
        path.write_bytes(path.read_bytes()[:-1])
    elif how == "remove":
        path.unlink()
    elif how == "manifest":
        manifest.unlink()
    elif how == "manifest-json":
        manifest.write_text(manifest.read_text()[:-20])
    else:
        data = json.loads(manifest.read_text())
        if how == "field":
            del data["size_bytes"]
        else:
            data["key"] = {"model": "another"}
        manifest.write_text(json.dumps(data))


@pytest.mark.parametrize("there", [False, True])
def test_while_measuring_a_missing_or_damaged_file_is_an_error_and_nothing_is_built(
    tmp_path: Path, there: bool
) -> None:
    build = _Build()
    if there:
        Path(_cache(tmp_path).fetch("onnx", _KEY, "f", build).path).write_text("damaged")
        build.calls = 0
    with pytest.raises(NotPrepared, match="onnx") as caught:
        _cache(tmp_path, writable=False).fetch("onnx", _KEY, "f", build)
    assert build.calls == 0
    assert caught.value.hint


@pytest.mark.parametrize(
    ("damage", "words"),
    [("flip", "other bytes than those that were recorded"), ("other-key", "seed: needed 3"), ("field", "manifest")],
)
def test_a_miss_says_what_is_wrong_with_the_entry_that_is_there(tmp_path: Path, damage: str, words: str) -> None:
    entry = _cache(tmp_path).fetch("onnx", {"seed": 3}, "f", _Build())
    _damage(Path(entry.path), damage)
    with pytest.raises(NotPrepared, match=words):
        _cache(tmp_path, writable=False).fetch("onnx", {"seed": 3}, "f", _Build())


def test_a_miss_names_the_fields_in_which_the_nearest_entry_differs(tmp_path: Path) -> None:
    for key in ({"model": "other", "versions": {"torch": "1"}}, {"model": "m", "versions": {"torch": "1"}}):
        _cache(tmp_path).fetch("onnx", key, "f", _Build())
    with pytest.raises(NotPrepared, match=r"the nearest differs in versions\.torch: needed 2, there 1") as caught:
        _cache(tmp_path, writable=False).fetch("onnx", _KEY, "f", _Build())
    assert "model" not in caught.value.message
    with pytest.raises(NotPrepared, match="none of its kind"):
        _cache(tmp_path, writable=False).fetch("weights", _KEY, "f", _Build())


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_an_entry_that_others_may_write_is_not_used_however_consistent(tmp_path: Path, mode: int) -> None:
    build = _Build()
    entry = _cache(tmp_path).fetch("engine", _KEY, "f", build)
    Path(entry.path).parent.chmod(mode)
    with pytest.raises(NotPrepared, match="other users may write"):
        _cache(tmp_path, writable=False).fetch("engine", _KEY, "f", build)
    assert not _cache(tmp_path).fetch("engine", _KEY, "f", build).cached
    assert _cache(tmp_path).fetch("engine", _KEY, "f", build).cached


def test_an_entry_of_another_user_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = _Build()
    _cache(tmp_path).fetch("engine", _KEY, "f", build)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(NotPrepared, match="belongs to user"):
        _cache(tmp_path, writable=False).fetch("engine", _KEY, "f", build)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=3), json_values), st.dictionaries(st.text(max_size=3), json_values))
def test_keys_differ_exactly_where_their_canonical_json_does(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert differing(a, a) == []
    assert (differing(a, b) == []) == (canonical_json(a) == canonical_json(b))
    assert [(path, y, x) for path, x, y in differing(a, b)] == differing(b, a)


def test_differences_are_told_by_path_and_the_first_few_of_them() -> None:
    wanted = {"versions": {"tensorrt": "10.16"}, "profile": [1, 1, 1], "a": 1, "b": 2}
    found = {"versions": {"tensorrt": "8.6.0"}, "profile": [1, 1, 1], "b": 3, "c": 4}
    parts = differing(wanted, found)
    assert parts == [
        ("a", 1, ABSENT),
        ("b", 2, 3),
        ("c", ABSENT, 4),
        ("versions.tensorrt", "10.16", "8.6.0"),
    ]
    assert (
        described(parts) == "a: needed 1, there (absent); b: needed 2, there 3; c: needed (absent), there 4; and 1 more"
    )
    assert nearest(wanted, [found, wanted | {"b": 5}]) == [("b", 2, 5)]
    assert nearest(wanted, []) is None


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def build(path: str) -> dict[str, Any]:
        Path(path).write_text("half")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        _cache(tmp_path).fetch("onnx", _KEY, "f", build)
    assert list((tmp_path / "onnx").iterdir()) == []


def test_build_time_is_the_builds_own_and_the_total_includes_what_it_was_made_from(tmp_path: Path) -> None:
    ticks = iter([0, 2_000_000_000, 10_000_000_000, 11_500_000_000])
    cache = Cache(str(tmp_path), True, lambda: next(ticks))
    order: list[str] = []

    def build(path: str) -> dict[str, Any]:
        order.append("build")
        Path(path).write_text("x")
        return {}

    first = cache.fetch("onnx", {}, "f", build, ready=lambda: order.append("ready"))
    second = cache.fetch("int8", {}, "f", build, upstream_s=lambda: first.total_build_s)
    assert (first.build_s, first.total_build_s) == (2.0, 2.0)
    assert (second.build_s, second.total_build_s) == (1.5, 3.5)
    assert order == ["ready", "build", "build"]
    assert cache.fetch("int8", {}, "f", build).total_build_s == 3.5


def _no_locks(_file: Any, _how: int) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def _race(root: str, locks: bool, barrier: Any, answers: Any) -> None:
    def build(path: str) -> dict[str, Any]:
        if not locks:
            barrier.wait(timeout=120)  # all are building before any is done
        with open(Path(root) / "builds", "a") as stream:
            stream.write("x")
        Path(path).write_text(f"made by {os.getpid()}")
        return {}

    if not locks:
        fcntl.flock = _no_locks
    cache = Cache(root, True, time.perf_counter_ns)
    if locks:
        barrier.wait(timeout=120)
    entry = cache.fetch("onnx", _KEY, "f", build)
    answers.put((entry.sha256, entry.cached, Path(entry.path).read_text()))


@pytest.mark.parametrize("locks", [True, False], ids=["with locks", "on a file system without locks"])
def test_of_processes_that_build_at_once_one_wins_and_all_use_its_file(tmp_path: Path, locks: bool) -> None:
    context = multiprocessing.get_context("fork")
    count = 4
    barrier, answers = context.Barrier(count), context.Queue()
    processes = [context.Process(target=_race, args=(str(tmp_path), locks, barrier, answers)) for _ in range(count)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(timeout=120)
        assert process.exitcode == 0
    assert (tmp_path / "builds").read_text() == "x" * (1 if locks else count)
    assert len(set(sha for sha, _, _ in found)) == 1
    assert len(set(text for _, _, text in found)) == 1
    assert sorted(cached for _, cached, _ in found) == [False] + [True] * (count - 1)
    assert len(list((tmp_path / "onnx").iterdir())) == 1
