# SPDX-License-Identifier: Apache-2.0
"""Whatever a sweep file holds, loading it ends in a sweep or in a UsageError with a place; never in a traceback."""

from __future__ import annotations

from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farm.errors import UsageError
from farm.sweep import SweepSpec, parse_sweep
from farm.sweep.document import (
    BatchEntry,
    CalibrationEntry,
    DeviceEntry,
    ExcludeEntry,
    ModelEntry,
    SweepDocument,
)
from farm.sweep.protocol_entry import ProtocolEntry
from tests.sweep.conftest import sweep

FEW = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])

PARTS = (BatchEntry, CalibrationEntry, DeviceEntry, ExcludeEntry, ModelEntry, ProtocolEntry, SweepDocument)
KEYS = sorted({key for part in PARTS for key in part.model_fields} | {"id", "class", "cores", "latency_ms", "stage"})
WORDS = ["resnet18", "fake", "pytorch", "int8", "fp32", "quick", "minmax", "saturated", ">=8.0", "../x", "", "default"]

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS) | st.text(max_size=8) | st.dates()
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), inner, max_size=5)
    ),
    max_leaves=12,
)


def load(text: str) -> None:
    try:
        spec = parse_sweep(text, "sweep.yaml")
    except UsageError as error:
        assert error.message.startswith("sweep.yaml")
        assert all(problem.startswith("sweep.yaml: $") for problem in error.problems)
        assert all(len(problem) < 1000 and problem.isprintable() for problem in error.problems)
    else:
        assert SweepSpec.from_document(spec.document()).sweep_id == spec.sweep_id


@FEW
@given(st.text() | st.text(alphabet="ab:-[]{}&*!|>#'\",? \n\t%@`~<01.", max_size=60))
def test_random_text_never_ends_in_a_traceback(text: str) -> None:
    load(text)


@FEW
@given(values)
def test_random_yaml_never_ends_in_a_traceback(value: Any) -> None:
    load(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


@FEW
@given(st.dictionaries(st.sampled_from(sorted(SweepDocument.model_fields)), values, max_size=4))
def test_a_sweep_with_random_parts_never_ends_in_a_traceback(parts: dict[str, Any]) -> None:
    load(yaml.safe_dump(sweep() | parts, sort_keys=False, allow_unicode=True))
