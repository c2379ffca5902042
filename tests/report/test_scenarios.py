# SPDX-License-Identifier: Apache-2.0
"""Points of different scenarios stand side by side, named, and are never ranked or compared with one another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from farm.contract.protocols import PROTOCOLS
from farm.contract.record import Record
from farm.report import narrative, tables
from farm.report.select import select
from farm.report.stats import Absent, Ratio, speed_up
from tests.report import demo

CLASS = demo.DEVICE.device_class
QUICK = PROTOCOLS["quick"]
EAGER, SESSION = demo.WAYS[0], demo.WAYS[1]


def protocol(**switches: Any) -> Any:
    return replace(QUICK, name="quick-3fa9c1", **switches)


STREAMS = protocol(scenario="streams", streams=4)
OFFLINE = replace(QUICK, name="quick-77aa00", scenario="offline")


def record(way: tuple[str, str], of: Any = QUICK, throughput: float = 100.0, latency: float | None = 8.0) -> Record:
    made = demo.ok(demo.job(way=way, protocol=of), 1)
    withheld = {} if latency is not None else {"latency_ms": "offline: inputs are queued all at once"}
    metrics = made.metrics | {"throughput_per_s": throughput, "latency_ms": latency}
    return replace(made, metrics=metrics, withheld=withheld, intervals={})


def everything() -> list[Record]:
    found = []
    for way, factor in ((EAGER, 1.0), (SESSION, 2.0)):
        found += [record(way, QUICK, 100 * factor, 8 / factor), record(way, STREAMS, 300 * factor, 12 / factor)]
        found.append(record(way, OFFLINE, 400 * factor, None))
    return found


def test_each_scenario_is_a_series_and_its_name_says_which() -> None:
    selection = select(everything())
    labels = {series.label for series in selection.series(CLASS, "resnet18")}
    eager, session = (" ".join(way) for way in (EAGER, SESSION))
    assert labels == {
        eager, f"{eager} (streams 4)", f"{eager} (offline)",
        session, f"{session} (streams 4)", f"{session} (offline)",
    }  # fmt: skip


def test_a_scenario_is_named_also_where_there_is_no_other() -> None:
    (series,) = select([record(EAGER, STREAMS)]).series()
    assert series.variant == "streams 4"
    (series,) = select([record(EAGER)]).series()
    assert series.variant == ""


def test_another_protocol_beside_the_scenario_is_still_told_apart() -> None:
    longer = replace(STREAMS, name="quick-0000aa", min_s=9.0, max_s=60.0)
    labels = {series.variant for series in select([record(EAGER), record(EAGER, longer)]).series()}
    assert any(label.startswith("streams 4, quick ") for label in labels)


def test_speed_ups_are_taken_within_a_scenario() -> None:
    selection = select(everything())
    found = {}
    for point in selection.ok:
        if point.record.job.workflow == SESSION[0]:
            found[point.series.variant] = speed_up(point, selection.references(point.series))
    assert isinstance(found[""], Ratio)
    assert isinstance(found["streams 4"], Ratio)
    assert found["streams 4"].base.series.variant == "streams 4"
    assert isinstance(found["offline"], Absent)
    alone = select([record(EAGER), record(SESSION, STREAMS)])
    (point,) = [p for p in alone.ok if p.record.job.workflow == SESSION[0]]
    assert speed_up(point, alone.references(point.series)) == Absent(
        "not compared with pytorch fp32: the two ran with different protocol switches"
    )


def test_the_summary_ranks_each_scenario_by_itself() -> None:
    said = [s.text for s in narrative.summarise(select(everything())) if s.kind == "fastest"]
    session = " ".join(SESSION)
    assert [text.split(":")[0] for text in said] == ["resnet18", "resnet18, offline", "resnet18, streams 4"]
    assert f"lowest latency at batch 1 is 4 ms, with {session}" in said[0].replace("4.00", "4")
    assert "highest throughput is 200" in said[0]
    assert "highest throughput is 800" in said[1]
    assert "latency" not in said[1]
    assert "highest throughput is 600" in said[2]


def test_the_tables_take_a_row_without_latencies() -> None:
    selection = select(everything())
    made = tables.measured_tables(selection, CLASS)
    throughput = next(table for table in made if table.key.startswith("throughput"))
    assert len([row for _, row in throughput.rows]) == 6
    latency = next(table for table in made if table.key.startswith("latency"))
    offline = next(row for _, row in latency.rows if "offline" in row.heading)
    assert offline.cells[0].text == "\u2013"
