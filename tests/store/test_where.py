# SPDX-License-Identifier: Apache-2.0
"""Conditions from people: what is right works, what is wrong is explained, what reaches out is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farm.contract.outcome import Outcome
from farm.errors import UsageError
from farm.store import Index, Store
from farm.store.columns import COLUMNS
from tests.factories import make_record


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Ten runs with latencies of 1 to 10 ms; the last one failed."""
    store = Store(tmp_path_factory.mktemp("where") / "store")
    store.create()
    for size in range(1, 11):
        outcome = Outcome.FAILED if size == 10 else Outcome.OK
        store.records.write(make_record(batch_size=size, outcome=outcome, metrics={"latency_ms": float(size)}))
    store.index.refresh()
    return store.index


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ("latency_ms < 3.5", 3),
        ("latency_ms < 3.5 AND outcome = 'ok'", 3),
        ("outcome <> 'ok'", 1),
        ("latency_ms > (SELECT median(latency_ms) FROM records)", 5),
        ("failure_message LIKE '%;%' OR batch_size IN (1, 2)", 2),
        ("batch_size = 1 -- the smallest", 1),
        ("started_at >= '2026-03-01' AND started_at < '2026-03-02'", 10),
        ("precision = 'fp32'", 10),
        ("mismatch_1e_3_pct IS NULL", 10),
        ("NULL", 0),
        ("true", 10),
    ],
)
def test_a_condition_picks_its_rows(index: Index, where: str, count: int) -> None:
    assert len(index.query(where=where).rows) == count


@pytest.mark.parametrize(
    ("where", "fault", "hint"),
    [
        ("latencyms < 3", "no column 'latencyms'", "Did you mean latency_ms?"),
        ('outcome = "ok"', "no column 'ok'", "single quotes: 'ok'"),
        ("latency_ms <", "syntax error", "latency_ms < 10"),
        ("(latency_ms < 3", "syntax error", "Columns: run_id"),
        ("", "cannot be used", "Columns: run_id"),
        ("latency_ms", "it gives DOUBLE, not true or false", "Compare it"),
        ("'ok'", "it gives VARCHAR", "Compare it"),
        ("batch_size, latency_ms", "cannot be used", ""),
        ("model::INTEGER > 1", "Could not convert", ""),
        ("count(*) > 1", "aggregates", ""),
        ("nosuch(model)", "nosuch", ""),
        ("batch_size > $1", "cannot be used", ""),
    ],
)
def test_a_wrong_condition_is_explained(index: Index, where: str, fault: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        index.query(where=where)
    assert fault in caught.value.message
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    "where",
    [
        "true; SELECT 1",
        "true;",
        "true) UNION SELECT * FROM records --",
        "true) --",
        "true) OR (true",
        "1 = 1 FROM records",
        "true ORDER BY 1",
        "true /*",
        "true; SET enable_external_access = true",
    ],
)
def test_more_than_an_expression_is_refused(index: Index, where: str) -> None:
    with pytest.raises(UsageError, match="cannot be used"):
        index.query(where=where)


@pytest.mark.parametrize(
    "where",
    [
        "(SELECT count(*) FROM read_text('{secret}')) > 0",
        "(SELECT count(*) FROM read_csv('{secret}')) > 0",
        "(SELECT count(*) FROM read_blob('{secret}')) > 0",
        "EXISTS (FROM '{secret}')",
        "EXISTS (FROM '{secret}.parquet')",
        "(SELECT count(*) FROM glob('{folder}/*')) > 0",
        "(SELECT count(*) FROM parquet_metadata('{secret}')) > 0",
        "EXISTS (FROM query('COPY (SELECT 1) TO ''{folder}/written.csv'''))",
        "EXISTS (FROM query('ATTACH ''{folder}/new.db'''))",
        "EXISTS (FROM read_csv('http://127.0.0.1:9/x.csv'))",
        "getenv('HOME') <> ''",
        "EXISTS (FROM secret)",
        "EXISTS (FROM duckdb_secrets())",
    ],
)
def test_nothing_outside_the_index_can_be_reached(index: Index, tmp_path: Path, where: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a,b\n1,2\n")
    with pytest.raises(UsageError):
        index.query(where=where.format(secret=secret, folder=tmp_path))
    assert list(tmp_path.iterdir()) == [secret]


def test_the_index_itself_cannot_be_written_by_a_condition(index: Index) -> None:
    (part,) = index.directory.glob("*.parquet")
    before = part.read_bytes()
    with pytest.raises(UsageError):
        index.query(where=f"EXISTS (FROM query('COPY (SELECT 1) TO ''{part}'''))")
    assert part.read_bytes() == before


WORDS = st.sampled_from(
    [*list(COLUMNS)[:12], "(", ")", "'", '"', ";", "--", "/*", "*/", "AND", "OR", "NOT", "=", "<", "1", "NULL", ","]
)


@pytest.mark.parametrize("text", ["model = '\udc80'", "true\0", "\0"])
def test_text_that_sql_cannot_hold_is_refused(index: Index, text: str) -> None:
    for asked in ({"where": text}, {"sweep": text}):
        with pytest.raises(UsageError, match="it holds"):
            index.query(**asked)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(WORDS, max_size=8).map(" ".join) | st.text(max_size=30))
def test_no_condition_does_more_than_be_refused(index: Index, where: str) -> None:
    try:
        table = index.query(where=where)
    except UsageError as error:
        assert error.hint
    else:
        assert len(table.rows) <= 10
