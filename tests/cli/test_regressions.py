# SPDX-License-Identifier: Apache-2.0
"""`farm regressions` and `farm demo-history` as a person types them, on the made-up history."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from farm.cli.main import cli
from farm.errors import UsageError
from farm.history.nights import assess, conclude
from farm.store import Store

Type = Callable[..., Result]


@pytest.fixture
def run(demo_store: Path, tmp_path: Path) -> Type:
    def type_(*args: str) -> Result:
        given = ["--home", str(tmp_path / "home"), "--store", str(demo_store), "regressions", *args]
        return CliRunner().invoke(cli, given, standalone_mode=False)

    return type_


@pytest.fixture
def own(demo_store: Path, tmp_path: Path) -> tuple[Store, Type]:
    """A copy to write to."""
    root = tmp_path / "copy"
    shutil.copytree(demo_store, root)

    def type_(*args: str) -> Result:
        given = ["--home", str(tmp_path / "home"), "--store", str(root), "regressions", *args]
        return CliRunner().invoke(cli, given, standalone_mode=False)

    return Store(root), type_


def listed(run: Type, *args: str) -> list[dict[str, object]]:
    done = run("list", "--format", "json", *args)
    assert done.exception is None
    return list(json.loads(done.output))


def test_the_list_has_a_line_for_each_event(run: Type) -> None:
    done = run("list")
    assert done.exception is None
    lines = done.output.splitlines()
    assert lines[0].split() == ["event", "group", "state", "since", "device", "what", "metric", "change", "cause"]
    assert any("resnet50/onnx_tensorrt/fp16 b8" in line and "tensorrt 10.3.0" in line for line in lines)
    assert any("refused -> failed" in line for line in lines)
    assert any("+5.1 % worse" in line or "+5.0 % worse" in line for line in lines)


def test_the_list_can_be_narrowed(run: Type) -> None:
    assert {event["device"] for event in listed(run, "--device", "simulated-gpu-1")} == {"simulated-gpu-1"}
    dismissed = listed(run, "--state", "dismissed")
    assert dismissed
    assert {event["state"] for event in dismissed} == {"dismissed"}
    assert len(listed(run, "--all")) > len(listed(run))
    assert run("list", "--device", "nowhere").output == "no events\n"


def test_a_state_that_there_is_not_is_refused(run: Type) -> None:
    done = run("list", "--state", "broken")
    assert isinstance(done.exception, UsageError)
    assert "confirmed" in str(done.exception.hint)


def test_an_event_is_told_in_full(run: Type) -> None:
    (event,) = [e for e in listed(run, "--device", "simulated-gpu-1") if e["metric"] == "latency_ms"]
    done = run("explain", str(event["event_id"])[:6])
    assert done.exception is None
    text = done.output
    assert "cause: tensorrt 10.3.0 -> 10.4.0" in text
    assert "times their spread" in text
    assert "SLOWER" in text
    assert "at 99.2 %" in text
    assert text.count("*") == 30, "a mark for each night"
    assert "<- since" in next(line for line in text.splitlines() if line.startswith("  2026-03-15"))
    assert "farm compare" in text
    told = json.loads(run("explain", str(event["event_id"]), "--format", "json").output)
    assert len(told["points"]) == 30
    assert told["base"]
    assert told["new"]


@pytest.mark.parametrize("kind", ["device", "coverage"])
def test_an_event_of_no_single_series_is_told_as_well(run: Type, kind: str) -> None:
    event = next(e for e in listed(run) if e["kind"] == kind)
    done = run("explain", str(event["event_id"]))
    assert done.exception is None
    assert str(event["event_id"]) in done.output


def test_an_event_that_there_is_not_names_the_nearest(run: Type) -> None:
    name = str(listed(run)[0]["event_id"])
    done = run("explain", name[:-1] + ("0" if name[-1] != "0" else "1"))
    assert isinstance(done.exception, UsageError)
    assert f"Did you mean {name}?" in str(done.exception.hint)


def test_a_reason_is_needed(run: Type) -> None:
    name = str(listed(run)[0]["event_id"])
    assert run("accept", name).exception is not None
    done = run("accept", name, "--reason", "  ")
    assert isinstance(done.exception, UsageError)
    assert "reason" in str(done.exception)


def test_a_group_is_accepted_the_next_night_follows_and_it_can_be_taken_back(own: tuple[Store, Type]) -> None:
    store, run = own
    (event,) = [e for e in listed(run, "--device", "simulated-gpu-1") if e["metric"] == "latency_ms"]
    done = run("accept", str(event["group"]), "--reason", "needed for the new models")
    assert done.exception is None
    assert done.output.count("accepted") == 2, "latency and throughput"
    assert [e for e in listed(run, "--device", "simulated-gpu-1") if e["metric"] == "latency_ms"] == []
    told = run("explain", str(event["event_id"])).output
    assert "needed for the new models" in told

    again = run("accept", str(event["event_id"]), "--reason", "twice")
    assert isinstance(again.exception, UsageError)
    states = {e.event_id: e.state for e in conclude(store, assess(store, "2026-03-30")).events}
    assert states[str(event["event_id"])] == "accepted"

    assert run("reopen", str(event["group"]), "--reason", "a mistake").exception is None
    assert str(event["event_id"]) in {str(e["event_id"]) for e in listed(run)}
    states = {e.event_id: e.state for e in conclude(store, assess(store, "2026-03-30")).events}
    assert states[str(event["event_id"])] == "confirmed"
    assert isinstance(run("reopen", str(event["group"]), "--reason", "twice").exception, UsageError)


def test_a_store_without_nights_has_no_events(tmp_path: Path) -> None:
    Store(tmp_path / "new").create()
    given = ["--home", str(tmp_path / "home"), "--store", str(tmp_path / "new"), "regressions", "list"]
    done = CliRunner().invoke(cli, given, standalone_mode=False)
    assert done.output == "no open events; --all lists the closed ones\n"


def test_a_night_that_cannot_be_read_is_named(own: tuple[Store, Type]) -> None:
    store, run = own
    store.nights.path("2026-03-07").write_text("[]")
    done = run("list")
    assert done.exception is None
    assert "2026-03-07.json: not a JSON object" in done.stderr
