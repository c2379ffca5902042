# SPDX-License-Identifier: Apache-2.0
"""The files of a report: self-contained, escaped, well formed, the same each time."""

from __future__ import annotations

import csv
import io
import itertools
import random
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from farm.contract.device import DeviceInfo
from farm.contract.job import ModelSpec
from farm.contract.outcome import Failure, Outcome
from farm.contract.record import Flag, Record
from farm.errors import UnavailableError
from farm.report import ReportFiles, write_report
from farm.report.markdown import escape
from farm.report.narrative import summarise
from farm.report.select import select
from tests.report import demo

HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(2)>|\n`{{ 7*7 }}`'


@dataclass(frozen=True)
class Unread:
    """What a store gives for a file that it can't read."""

    path: str
    problem: str


class Page(HTMLParser):
    """Collects a page's tags, attributes, ids, headings and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def ids(self) -> list[str]:
        return [a["id"] or "" for _, a in self.tags if "id" in a]

    @property
    def levels(self) -> list[int]:
        return [int(t[1]) for t, _ in self.tags if re.fullmatch(r"h[1-6]", t)]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def hostile_record() -> Record:
    """A record whose every free text is an attack."""
    of = replace(demo.job(), model=ModelSpec(name=HOSTILE), workflow=HOSTILE, sweep_name=HOSTILE)
    device = DeviceInfo(HOSTILE, HOSTILE, "cpu", HOSTILE, HOSTILE, {HOSTILE: HOSTILE})
    flags = [Flag(HOSTILE, "suspect", HOSTILE)]
    return demo.ok(of, 1, run_id=HOSTILE, device=device, flags=flags, host={HOSTILE: HOSTILE})


def hostile_failure() -> Record:
    """A failure whose every free text is an attack, one of them a formula."""
    of = replace(demo.job(), job_id="demo-h2", model=ModelSpec(name=HOSTILE))
    failure = Failure("measure", HOSTILE, "=HYPERLINK(1)" + HOSTILE, HOSTILE, HOSTILE)
    return replace(demo.bad(of, 4, Outcome.FAILED, "x"), run_id=HOSTILE + "2", failure=failure)


SETS: dict[str, list[object]] = {
    "all ok": [*demo.sweep()],
    "rough": [*demo.rough_sweep()],
    "empty": [],
    "nothing ran": [demo.bad(demo.job(), 1, Outcome.CRASHED, "signal 11")],
    "unreadable": [Unread("records/a.json", "bad"), demo.ok(demo.job(), 1)],
    "hostile": [hostile_record(), hostile_failure(), Unread(HOSTILE, HOSTILE)],
}


@pytest.fixture(scope="module", params=list(SETS))
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ReportFiles:
    """The report of each set of records."""
    out = tmp_path_factory.mktemp("report")
    return write_report(SETS[request.param], out, title=f"Test {HOSTILE}", samples=demo.load_samples)


def test_the_page_has_no_script_no_handler_and_no_address_outside(written: ReportFiles) -> None:
    html = written.html.read_text()
    page = Page(html)
    assert not {t for t, _ in page.tags} & {"script", "img", "iframe", "object", "embed", "form", "base"}
    assert not [k for _, a in page.tags for k in a if k.startswith("on")]
    links = [v or "" for _, a in page.tags for k, v in a.items() if k in ("src", "href", "xlink:href", "action")]
    assert {link for link in links if not link.startswith("#")} <= {
        "report.md",
        "results.csv",
        "results.parquet",
        "data:,",
    }
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", html)
    assert "http:" not in html and "https:" not in html and "@import" not in html


def test_every_link_inside_the_page_leads_somewhere_and_ids_are_unique(written: ReportFiles) -> None:
    page = Page(written.html.read_text())
    assert [name for name, count in Counter(page.ids).items() if count > 1] == []
    targets = {(a["href"] or "")[1:] for _, a in page.tags if (a.get("href") or "").startswith("#")}
    labels = {name for _, a in page.tags for name in (a.get("aria-labelledby") or "").split()}
    assert targets | labels <= set(page.ids)


def test_headings_are_in_order_and_cells_have_scopes(written: ReportFiles) -> None:
    page = Page(written.html.read_text())
    levels = page.levels
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert all(a.get("scope") in ("col", "row", "rowgroup") for t, a in page.tags if t == "th")
    assert ("html", {"lang": "en"}) in page.tags
    assert all(a.get("aria-label") for _, a in page.tags if a.get("role") == "img")


def test_every_row_of_a_table_has_as_many_cells_as_its_head(written: ReportFiles) -> None:
    for table in re.findall(r"<table.*?</table>", written.html.read_text(), re.DOTALL):
        head, *rows = re.findall(r"<tr.*?</tr>", table, re.DOTALL)
        width = len(re.findall(r"<th\b", head))
        for row in rows:
            span = re.search(r'colspan="(\d+)"', row)
            assert (int(span[1]) if span else len(re.findall(r"<t[hd]\b", row))) == width


def test_markdown_tables_keep_their_shape(written: ReportFiles) -> None:
    bars = re.compile(r"(?<!\\)\|")
    block: list[int] = []
    for line in [*written.markdown.read_text().splitlines(), ""]:
        if line.startswith("|"):
            block.append(len(bars.findall(line)))
        else:
            assert len(set(block)) <= 1
            block = []


def test_no_unfilled_value_reaches_a_reader(written: ReportFiles) -> None:
    words = Page(written.html.read_text()).text + written.markdown.read_text()
    assert not re.search(r"\b(None|nan|NaN ms|Undefined|inf)\b", words)


def test_hostile_text_is_shown_and_not_obeyed(tmp_path: Path) -> None:
    files = write_report(SETS["hostile"], tmp_path, title=HOSTILE)
    html = files.html.read_text()
    assert "<script>" not in html and "<img" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "{{ 7*7 }}" in html
    markdown = files.markdown.read_text()
    assert "<script" not in markdown and "<img" not in markdown


def test_a_formula_in_the_csv_is_text(tmp_path: Path) -> None:
    files = write_report(SETS["hostile"], tmp_path, title="t")
    rows = list(csv.DictReader(io.StringIO(files.csv.read_bytes().decode(), newline="")))
    failed = next(r for r in rows if r["outcome"] == "failed")
    assert failed["message"].startswith("'=HYPERLINK(1)")
    assert failed["hint"] == HOSTILE


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("onnxruntime_cpu", "onnxruntime_cpu"),
        ("_x_ *y* `z`", r"\_x\_ \*y\* \`z\`"),
        ("a|b\nc", r"a\|b c"),
        ("<b>&amp;", "&lt;b&gt;&amp;amp;"),
        ("[a](b)", r"\[a\](b)"),
    ],
)
def test_markdown_text_is_not_markup(words: str, shown: str) -> None:
    assert escape(words) == shown


def test_the_same_records_give_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    records = demo.rough_sweep()
    shuffled = random.Random(3).sample(records, len(records))
    one = write_report(records, tmp_path / "one", title="t", samples=demo.load_samples)
    two = write_report(shuffled, tmp_path / "two", title="t", samples=demo.load_samples)
    for a, b in zip(_all(one), _all(two), strict=True):
        assert a.read_bytes() == b.read_bytes(), a.name


def _all(files: ReportFiles) -> list[Path]:
    return [files.html, files.markdown, files.csv, files.parquet, *files.figures]


def test_the_files_are_where_they_are_said_to_be_and_nothing_else_is(tmp_path: Path) -> None:
    files = write_report(demo.sweep(), tmp_path / "a" / "b", title="t")
    found = {str(p.relative_to(tmp_path / "a" / "b")) for p in (tmp_path / "a" / "b").rglob("*") if p.is_file()}
    names = {"index.html", "report.md", "results.csv", "results.parquet"}
    assert found == names | {f"figures/{n}.png" for n in ("throughput", "latency", "distribution", "pareto")}
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in files.figures)


def test_a_report_written_again_leaves_no_figure_of_the_last_one(tmp_path: Path) -> None:
    write_report(demo.sweep(), tmp_path, title="t")
    files = write_report([], tmp_path, title="t")
    assert (files.figures, list((tmp_path / "figures").iterdir())) == ((), [])


def test_a_directory_that_cannot_be_made_is_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        UnavailableError, match=r"cannot write the report into .*file/report: Not a directory"
    ) as caught:
        write_report([], tmp_path / "file" / "report", title="t")
    assert caught.value.hint


def test_a_failed_write_leaves_the_old_page(tmp_path: Path) -> None:
    write_report(demo.sweep(), tmp_path, title="old")
    (tmp_path / "results.csv").unlink()
    (tmp_path / "results.csv").mkdir()
    with pytest.raises(UnavailableError):
        write_report(demo.sweep(), tmp_path, title="new")
    assert "<h1>old</h1>" in (tmp_path / "index.html").read_text()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_sweep_of_which_nothing_is_recorded_is_reported_as_missing(tmp_path: Path) -> None:
    text = write_report([], tmp_path, title="t", expected=[demo.job()]).markdown.read_text()
    assert "0 of 3 points ran and are ok" in text
    assert "3 points asked for and without a record." in text


def test_an_empty_selection_says_so(tmp_path: Path) -> None:
    page = Page(write_report([], tmp_path, title="t").html.read_text())
    assert "There is nothing to report: no record was found for this selection." in page.text


def test_the_summary_says_what_ran_what_is_fastest_and_what_is_wrong(tmp_path: Path) -> None:
    text = Page(write_report(demo.rough_sweep(), tmp_path, title="t").html.read_text()).text
    assert "21 of 27 points ran and are ok: 3 models, 3 workflows and precisions, on cpu-test-data-8-core" in text
    assert re.search(
        r"resnet18: lowest latency at batch 1 is 3\.7\d ms, with onnxruntime_cpu int8 \(3\.7\d times", text
    )
    assert "mobilenet_v2: lowest latency at batch 1 is 5.93 ms, with onnxruntime_cpu fp32" in text
    assert "1 better but flagged point left out" in text
    assert "3 points unsupported: resnet50 onnxruntime_cpu int8: this stack's onnxruntime has no static" in text
    assert "1 point asked for and without a record." in text
    assert "2 points that ran are flagged and marked as such: foreign process (1) and unstable (1)." in text


def test_the_summary_of_many_models_counts() -> None:
    records = [demo.ok(demo.job(f"model_{n}", way), 1) for n in range(13) for way in demo.WAYS]
    (said,) = [sentence.text for sentence in summarise(select(records)) if sentence.kind == "fastest"]
    assert "cpu-test-data-8-core: lowest latency: onnxruntime_cpu int8 for 13 models; highest throughput: " in said


def test_an_order_that_the_intervals_leave_open_is_called_open(tmp_path: Path) -> None:
    close = [demo.ok(demo.job(way=w), 1) for w in demo.WAYS[:2]]
    close[1] = replace(close[1], metrics=close[0].metrics, intervals=close[0].intervals)
    text = write_report(close, tmp_path, title="t").markdown.read_text()
    assert "its interval overlaps that of onnxruntime_cpu fp32, so the order is open" in text


def test_each_number_leads_to_the_row_that_names_its_record_and_samples(tmp_path: Path) -> None:
    record = demo.sweep()[0]
    html = write_report([record], tmp_path, title="t").html.read_text()
    anchor = f"run-{record.run_id}"
    assert html.count(f'href="#{anchor}"') > 5
    row = re.search(rf'<tr id="{anchor}">.*?</tr>', html, re.DOTALL)
    assert row is not None
    for expected in (record.run_id, f"records/2026/03/01/{record.run_id}.json", record.samples[0].sha256):
        assert expected in row[0]


def test_the_csv_has_every_point_with_full_precision(tmp_path: Path) -> None:
    records = demo.rough_sweep()
    files = write_report(records, tmp_path, title="t")
    rows = list(csv.DictReader(io.StringIO(files.csv.read_bytes().decode(), newline="")))
    assert Counter(r["outcome"] for r in rows) == {
        "ok": 21, "unsupported": 1, "out_of_memory": 1, "not_run": 1, "missing": 1
    }  # fmt: skip
    by_run = {r["run_id"]: r for r in rows}
    for record in records:
        if record.outcome is Outcome.OK:
            assert float(by_run[record.run_id]["latency_ms"]) == record.metrics["latency_ms"]
            assert by_run[record.run_id]["latency_p99_ms"] == ""
            assert by_run[record.run_id]["samples_sha256"] == record.samples[0].sha256


def test_the_time_of_making_is_printed_only_if_given(tmp_path: Path) -> None:
    files = write_report([], tmp_path, title="t", generated_at="2026-03-01 12:00 UTC")
    assert "Made 2026-03-01 12:00 UTC" in files.html.read_text()
    assert "Made" not in write_report([], tmp_path, title="t").html.read_text()


def test_importing_the_report_loads_no_drawing_library() -> None:
    code = "import sys, farm.report; print(sorted({'altair', 'vl_convert', 'jinja2', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
