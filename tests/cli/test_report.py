# SPDX-License-Identifier: Apache-2.0
"""`farm report` where records cannot be used, and of nights."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from farm.api import Farm
from farm.cli.main import cli
from farm.settings import Settings
from farm.store import Store
from farm.sweep import SweepSpec
from tests.compare.stored import BEGIN, put, sweep

pytest.importorskip("altair")

NIGHT = BEGIN.date().isoformat()


def report(settings: Settings, *args: str) -> Result:
    given = ["--home", str(settings.home), "report", *args, "-o", str(settings.home / "report")]
    return CliRunner(env={"COLUMNS": "300"}).invoke(cli, given, standalone_mode=False)


def page(settings: Settings) -> str:
    return (settings.home / "report" / "index.html").read_text()


def put_bad(store: Store, sweep_id: str) -> dict[str, str]:
    """Files among the records that cannot be used; what the page must say of each."""
    good = next(store.records.files())
    document = json.loads(good.read_bytes())
    assert document["job"]["sweep_id"] == sweep_id
    bad: dict[str, tuple[bytes, str]] = {
        "bad-old": (json.dumps({**document, "run_id": "bad-old", "schema": 0}).encode(), "schema"),
        "bad-newer": (json.dumps({**document, "run_id": "bad-newer", "schema": 99}).encode(), "schema 99"),
        "bad-fields": (json.dumps({k: v for k, v in document.items() if k != "outcome"}).encode(), "outcome"),
        "bad-foreign": (json.dumps({"sweep_id": sweep_id, "rows": [1, 2]}).encode(), "schema"),
        "bad-cut": (good.read_bytes()[:200], ""),
        "bad-name": (good.read_bytes(), f"record of run {good.stem}"),
    }
    for name, (data, _) in bad.items():
        (good.parent / f"{name}.json").write_bytes(data)
    return {name: words for name, (_, words) in bad.items()}


def named(settings: Settings, bad: dict[str, str]) -> None:
    """Each bad file stands in the page with its reason, on its row, and in the Markdown."""
    markdown = (settings.home / "report" / "report.md").read_text()
    assert all(f"{name}.json" in page(settings) for name in bad)
    for name, words in bad.items():
        (line,) = [line for line in markdown.splitlines() if f"{name}.json" in line]
        assert words in line


def stored_night(settings: Settings) -> tuple[Farm, SweepSpec]:
    farm, spec = Farm(settings), sweep("nightly")
    put(farm, spec, 8.25)
    document = {"schema": 1, "night": NIGHT, "sweeps": [spec.sweep_id], "run": {}, "assessed_at": "", "canaries": {},
                "triggers": [], "confirmations": [], "missed": [], "events": [], "series": None, "left_out": {},
                "problems": []}  # fmt: skip
    farm.store.nights.write(NIGHT, document)
    return farm, spec


@pytest.mark.parametrize("by_name", [True, False])
def test_records_that_cannot_be_used_are_listed_and_the_others_reported(settings: Settings, by_name: bool) -> None:
    farm, spec = Farm(settings), sweep("quick")
    put(farm, spec, 8.25)
    bad = put_bad(farm.store, spec.sweep_id)
    done = report(settings, *([spec.sweep_id] if by_name else []))
    assert done.exception is None and done.return_value == 0
    named(settings, bad)
    assert len((settings.home / "report" / "results.csv").read_text().splitlines()) == 3


def test_the_newest_night_or_the_one_named_with_its_bad_records(settings: Settings) -> None:
    farm, spec = stored_night(settings)
    bad = put_bad(farm.store, spec.sweep_id)
    for date in ((), (NIGHT,)):
        done = report(settings, "--nightly", *date)
        assert done.exception is None and done.return_value == 0
        assert f"Night {NIGHT}" in page(settings)
        assert "has not been judged" in page(settings)
    named(settings, bad)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("2026-02-30",), "not a night"),
        (("2026-02-03",), "2026-02-03"),
        ((NIGHT, NIGHT), "takes one date"),
        (("--title", "mine"), "no title"),
    ],
)
def test_what_is_no_night_is_refused_and_nothing_written(settings: Settings, args: tuple[str, ...], words: str) -> None:
    stored_night(settings)
    done = report(settings, "--nightly", *args)
    assert done.exception is not None and words in str(done.exception)
    assert not (settings.home / "report").exists()


def test_a_store_without_nights_says_how_to_get_one(settings: Settings) -> None:
    Farm(settings).store.create()
    done = report(settings, "--nightly")
    assert done.exception is not None and "no night" in str(done.exception)
