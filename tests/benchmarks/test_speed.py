# SPDX-License-Identifier: Apache-2.0
"""The frame of the speed benchmarks: what it runs, what it says of it, and when a ratio counts as worse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.speed import against
from benchmarks.speed.line import Line
from benchmarks.speed.table import BEGIN, END, as_json, markdown, of_json, replaced
from tests.docs.tables import ROOT

OURS = (2.0, 2.1, 2.2, 1.9, 2.0)
LINE = Line("queue", "enqueue to start", "ms", OURS, (1.0,) * 5, "raw Celery", 2.5, "idle worker")


@pytest.fixture
def script(load_script: Callable[[str], Any]) -> Any:
    return load_script("run.py")


def slower(line: Line, factor: float) -> Line:
    return Line(**{**vars(line), "ours": tuple(factor * each for each in line.ours)})


def test_topics_are_the_modules_that_measure(script: Any, tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("def measure(rounds):\n    return []\n")
    (tmp_path / "helper.py").write_text("import absent_module\n")
    assert script.topics(tmp_path) == ["one"]
    assert {"line", "table", "against", "one"}.isdisjoint(script.topics())


def test_only_takes_topics_that_there_are(script: Any) -> None:
    assert script.chosen(["a", "b", "c"], ["c", "a"]) == ["a", "c"]
    assert script.chosen(["a", "b"], []) == ["a", "b"]
    with pytest.raises(ValueError, match="no topic d; there are a, b"):
        script.chosen(["a", "b"], ["d"])


def test_a_row_shows_medians_and_the_spread_of_the_ratios() -> None:
    table = markdown([LINE], {"scale": "MemoryError"})
    row = "| queue | enqueue to start (idle worker) | 2 ms | 1 ms (raw Celery) | 2 (1.9 to 2.2) | 2.5 | yes |"
    assert row in table.splitlines()
    assert table.endswith("Not measured: scale: MemoryError\n")


def test_without_a_baseline_the_limit_is_of_the_figure_itself() -> None:
    line = Line("store", "rebuild | 1", "s", (130.0, 90.0, 1234.5), limit=120.0)
    (row,) = markdown([line], {}).splitlines()[2:]
    assert row == "| store | rebuild \\| 1 | 130 s |  | 130 (90 to 1,234) | 120 s | **no** |"


def test_lines_survive_json() -> None:
    assert of_json(json.loads(json.dumps(as_json([LINE])))) == [LINE]


def test_all_must_be_measured_and_held(script: Any) -> None:
    told = Line("queue", "told, not held", "ms", (9.0,))
    assert script.Found([LINE, told]).held
    assert not script.Found([slower(LINE, 2)]).held
    assert not script.Found([LINE], {"scale": "MemoryError"}).held


def test_the_page_keeps_all_but_what_is_between_its_markers() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert replaced(page, "new\n") == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    assert replaced(replaced(page, "other"), "new") == replaced(page, "new")
    for bad in ("", f"{END}{BEGIN}", page + BEGIN):
        with pytest.raises(ValueError, match="in this order"):
            replaced(bad, "new")


def test_the_page_of_the_docs_can_be_written() -> None:
    assert replaced((ROOT / "docs/performance.md").read_text(), "new")


@pytest.mark.parametrize(("factor", "said"), [(1.0, "SAME"), (1.01, "SAME"), (1.5, "SLOWER"), (0.5, "FASTER")])
def test_a_ratio_is_judged_as_a_comparison_judges(factor: float, said: str) -> None:
    steady = Line(**{**vars(LINE), "ours": (2.0, 2.01, 2.02, 1.99, 2.0)})
    (cell,) = against.judged([steady], [slower(steady, factor)])
    assert str(cell.verdict) == said
    assert cell.ratio.value == pytest.approx(factor)
    assert f"| {said} |" in against.table([cell])


def test_too_few_rounds_and_noise_give_no_verdict() -> None:
    few = Line(**{**vars(LINE), "ours": OURS[:4], "baseline": (1.0,) * 4})
    (cell,) = against.judged([few], [slower(few, 2)])
    assert str(cell.verdict) == "UNCLEAR"
    assert "5 a side are the fewest" in cell.notes[0]
    (cell,) = against.judged([LINE], [slower(LINE, 1.06)])
    assert str(cell.verdict) == "UNCLEAR"


def test_what_got_worse_in_memory_is_an_alarm_too() -> None:
    memory = Line("store", "peak", "MiB", (100.0, 101.0, 100.5, 100.2, 100.1))
    (cell,) = against.judged([memory], [slower(memory, 2)])
    assert cell.verdict.is_alarm
    assert str(cell.verdict) == "WORSE"


def test_lines_that_only_one_run_has_are_named() -> None:
    other = Line(**{**vars(LINE), "what": "other"})
    assert against.judged([LINE], [other]) == []
    assert against.alone([LINE], [other]) == ["only before: queue: enqueue to start", "only now: queue: other"]


def test_a_run_against_an_earlier_one_fails_on_what_got_worse(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steady = Line(**{**vars(LINE), "limit": None})
    monkeypatch.setattr(script, "topics", lambda: ["queue"])
    monkeypatch.setattr(script, "run", lambda names, rounds: script.Found([steady]))
    before = tmp_path / "before.json"
    assert script.main(["--json", str(before)]) == 0
    assert script.main(["--against", str(before)]) == 0
    monkeypatch.setattr(script, "run", lambda names, rounds: script.Found([slower(steady, 3)]))
    assert script.main(["--against", str(before)]) == 1
    assert "SLOWER" in capsys.readouterr().out


def test_a_written_page_names_date_machine_command_and_versions(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Title\n{BEGIN}\n{END}\n")
    monkeypatch.setattr(script, "topics", lambda: ["queue", "cli"])
    monkeypatch.setattr(script, "run", lambda names, rounds: script.Found([LINE]))
    assert script.main(["--write", str(page), "--only", "queue", "--rounds", "3"]) == 0
    text = page.read_text()
    assert "`python benchmarks/run.py --rounds 3 --only queue`" in text
    assert all(word in text for word in ("cores", "Python 3.", "celery", "revision", "| queue |"))


def test_topics_of_an_earlier_run_stand_beside_those_of_this_one(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page, before = tmp_path / "page.md", tmp_path / "before.json"
    page.write_text(f"# Title\n{BEGIN}\n{END}\n")
    monkeypatch.setattr(script, "topics", lambda: ["queue", "cli"])
    started = Line(**{**vars(LINE), "topic": "cli", "what": "start"})
    monkeypatch.setattr(script, "run", lambda names, rounds: script.Found([LINE, started]))
    assert script.main(["--json", str(before), "--rounds", "2"]) == 0
    newer = Line(**{**vars(LINE), "what": "measured again"})
    monkeypatch.setattr(script, "run", lambda names, rounds: script.Found([newer]))
    assert script.main(["--only", "queue", "--write", str(page), "--beside", str(before)]) == 0
    text = page.read_text()
    assert "| cli | start" in text
    assert "| queue | measured again" in text
    assert "enqueue to start" not in text, "a topic that was measured now is not taken from before"
    assert "`python benchmarks/run.py --rounds 2 --only cli`" in text
    elsewhere = json.loads(before.read_text())
    elsewhere["about"]["machine"] = "another one"
    before.write_text(json.dumps(elsewhere))
    with pytest.raises(SystemExit):
        script.main(["--write", str(page), "--beside", str(before)])
    assert "another machine" in capsys.readouterr().err


@pytest.mark.parametrize("given", [["--only", "absent"], ["--rounds", "0"], ["--write", "/nonexistent/page.md"]])
def test_bad_usage_is_told_before_anything_is_measured(script: Any, given: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        script.main(given)
    assert ended.value.code == 2


def test_a_topic_runs_in_a_process_of_its_own_and_its_failure_is_told(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "benchmarks/speed"
    package.mkdir(parents=True)
    for name in ("__init__", "line", "table", "one"):
        (package / f"{name}.py").write_text((ROOT / f"benchmarks/speed/{name}.py").read_text())
    body = "import os\nfrom benchmarks.speed.line import Line\ndef measure(rounds):\n    print('noise')\n"
    (package / "good.py").write_text(f"{body}    return [Line('good', 'pid', 'x', (float(os.getpid()),) * rounds)]\n")
    (package / "bad.py").write_text(f"{body}    raise SystemExit('no Redis here')\n")
    monkeypatch.setattr(script, "ROOT", tmp_path)
    found = script.run(["bad", "good"], 2)
    assert found.failed == {"bad": "no Redis here"}
    (line,) = found.lines
    assert len(line.ours) == 2
    assert line.ours[0] > 1
