# SPDX-License-Identifier: Apache-2.0
"""What changed, in words: each kind of event as people read it, one sentence for one cause, a row for each event."""

from __future__ import annotations

from dataclasses import replace

import pytest

from farm.history.model import Confirmation, Decision, Event, State
from farm.report import markdown
from farm.report.changes import TITLES, change_sentences, changes_section
from farm.report.document import Document
from farm.report.render import to_html, to_markdown

NAMES = {f"{n}:latency_ms": f"resnet18 onnxruntime_cpu int8 batch {n}" for n in range(1, 9)}
AB = Confirmation("1:latency_ms", "2026-11-20", "ab", "slower", 1.12, 1.108, 1.131, 0.99)
SLOWER = Event(
    event_id="e1", kind="series", metric="latency_ms", device="box-cpu", keys=("1:latency_ms",), since="2026-11-20",
    night="2026-11-21", state=State.CONFIRMED, change=0.12, worse=True, confirmations=(AB,),
    cause=("onnxruntime 1.20 -> 1.21",), group="g1",
)  # fmt: skip
BROKE = Event(
    event_id="e2", kind="coverage", metric="outcome", device="box-cpu", keys=("2:latency_ms",), since="2026-11-21",
    night="2026-11-21", state=State.NEW, change=0.0, worse=True, cause=("ok -> failed", "the build ran out of memory."),
    notes=("case: box-cpu | resnet50 | tensorrt | int8", "batch sizes: 1, 8", "run: abc"),
)  # fmt: skip


def said(*events: Event) -> list[tuple[str, str]]:
    """Kind and text of each sentence."""
    return [(s.kind, s.text) for s in change_sentences(events, NAMES)]


def test_a_confirmed_slowdown_says_by_how_much_how_sure_since_when_and_with_what() -> None:
    assert said(SLOWER) == [
        (
            "slower",
            "resnet18 onnxruntime_cpu int8 batch 1 on box-cpu became 12 % slower (confirmed by alternate runs,"
            " 99 % interval +10.8 to +13.1 %), since 2026-11-20, with onnxruntime 1.20 -> 1.21.",
        )
    ]


@pytest.mark.parametrize(
    ("event", "kind", "words"),
    [
        (replace(SLOWER, state=State.NEW, confirmations=()), "slower", "(not confirmed yet), since"),
        (replace(SLOWER, state=State.UNCONFIRMED, confirmations=()), "slower", "what ran before cannot run again"),
        (replace(SLOWER, change=-0.08, worse=False), "better", "became 8.0 % faster"),
        (replace(SLOWER, metric="build_s", keys=("1:build_s",)), "slower", "takes 12 % longer to build"),
        (
            BROKE,
            "broke",
            "resnet18 onnxruntime_cpu int8 batch 2 on box-cpu: ok before, now failed, since 2026-11-21: the",
        ),
        (
            replace(BROKE, keys=("99:latency_ms",)),
            "broke",
            "| int8, batch 1, 8 on box-cpu: ok before, now failed, since 2026-11-21: the build ran",
        ),
        (replace(BROKE, cause=("ok -> missing",)), "missing", "ok before, now missing, since 2026-11-21."),
        (replace(SLOWER, state=State.FIXED), "settled", "fixed: back where it was on 2026-11-21."),
        (replace(SLOWER, state=State.DISMISSED), "settled", "measured again, and no change was found."),
        (
            replace(SLOWER, state=State.ACCEPTED, decision=Decision("e1", "accept", "new kernels.", "", "ada")),
            "settled",
            "accepted by ada: new kernels.",
        ),
        (
            replace(SLOWER, kind="device", keys=("1:latency_ms", "2:latency_ms"), cause=()),
            "slower",
            "box-cpu as a whole (2 series) became 12 % slower",
        ),
    ],
)
def test_every_kind_of_event_has_its_words(event: Event, kind: str, words: str) -> None:
    ((found, text),) = said(event)
    assert found == kind and words in text


def test_one_cause_is_one_sentence_whatever_it_touches() -> None:
    events = [replace(SLOWER, event_id=f"e{n}", keys=(f"{n}:latency_ms",), change=0.08 + n / 100) for n in range(1, 6)]
    ((_, text),) = said(*events)
    assert text.startswith("5 series on box-cpu, among them resnet18 onnxruntime_cpu int8 batch 5, became 9.0 to 13 %")
    assert "(5 confirmed)" in text and text.count("onnxruntime 1.20 -> 1.21") == 1
    apart = replace(events[0], cause=("driver 550 -> 560",), group="g2")
    assert len(said(*events[1:], apart)) == 2


def test_the_section_has_a_row_for_each_event_under_its_cause() -> None:
    section = changes_section([SLOWER, BROKE], NAMES, lambda key: f"../series/{key[0]}/index.html")
    assert [table.title for table in section.tables] == [TITLES["slower"], TITLES["broke"]]
    ((group, row),) = section.tables[0].rows
    assert group == "box-cpu, with onnxruntime 1.20 -> 1.21"
    assert (row.anchor, row.cells[0].text, row.href) == ("event-e1", "+12.0", "../series/1/index.html")
    assert "the build ran out of memory" in markdown.table(section.tables[1])


def test_a_throughput_that_went_with_its_latency_is_no_second_sentence() -> None:
    twin = replace(SLOWER, event_id="e3", metric="throughput_per_s", keys=("1:throughput_per_s",), change=-0.107)
    assert len(said(SLOWER, twin)) == 1
    assert "does 11 % fewer inputs a second" in said(twin)[0][1]
    assert len(said(SLOWER, replace(twin, keys=("2:throughput_per_s",)))) == 2


def test_a_share_changes_by_points_and_its_measured_ratio_says_so() -> None:
    worse = replace(SLOWER, metric="top1", keys=("1:top1",), change=-0.034)
    text = said(worse)[0][1]
    assert "has a top-1 accuracy 3.4 % points lower" in text
    assert "+10.8 to +13.1 % of the value before" in text


def test_no_events_say_so() -> None:
    section = changes_section([], NAMES)
    assert (section.tables, section.intro) == ((), "Nothing changed, and nothing waits to be settled.")
    assert said() == []


def test_sentences_lead_to_their_tables_and_names_are_escaped() -> None:
    events = [replace(SLOWER, device="<b>x</b>"), BROKE]
    document = Document("t", "", tuple(change_sentences(events, {})), (), (changes_section(events, {}),))
    page = to_html(document)
    assert "<b>x</b>" not in page and page.count('href="#changes-') == 2
    assert all(f'id="{table.key}"' in page for table in document.sections[0].tables)
    assert "results.csv" not in page and "12" in to_markdown(document)
