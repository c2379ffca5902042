# SPDX-License-Identifier: Apache-2.0
"""A sweep's id stands for what it measures: not for how it was written down, nor for how urgent it is."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from farm.contract.catalogue import WORKFLOWS
from farm.contract.job import AccuracySpec
from farm.contract.names import check_name
from farm.contract.protocols import PROTOCOLS
from farm.errors import IntegrityError, UsageError
from farm.sweep import SweepSpec, json_schema, load_sweep, parse_sweep
from scheduler.expand import jobs_at
from tests.sweep.conftest import sweep

WHOLE = """
name: whole
protocol: {base: quick, min_iterations: 50, stage_limits_s: {build: 60}}
models: [resnet18, {name: inception_v3, weights: default}, {name: alexnet, input: [3, 256, 256]}]
workflows: [pytorch, {name: onnxruntime_cpu, per_channel: false}]
precisions: [fp32, int8]
batch: {start: 1, factor: 3, stop: 32, until: [saturated, out_of_memory]}
devices: [cpu-x, {id: box-1}, {kind: gpu, compute_capability: ">=8.0, <9", memory_bytes: ">=8GiB", mig: false}]
calibration: {method: [minmax, percentile], samples: 100, batch: [1, 4], percentile: 99.9}
weights: random:7
seed: 3
exclude: [{workflow: pytorch, precision: int8}]
priority: 7
"""


def parse(document: dict[str, Any]) -> SweepSpec:
    return parse_sweep(yaml.safe_dump(document, sort_keys=False), "t")


def shuffled(value: Any, rng: random.Random) -> Any:
    if isinstance(value, dict):
        keys = list(value)
        rng.shuffle(keys)
        return {key: shuffled(value[key], rng) for key in keys}
    return [shuffled(item, rng) for item in value] if isinstance(value, list) else value


@given(st.randoms())
def test_the_order_of_keys_does_not_matter(rng: random.Random) -> None:
    document = yaml.safe_load(WHOLE)
    assert parse(shuffled(document, rng)).sweep_id == parse_sweep(WHOLE, "t").sweep_id


@pytest.mark.parametrize(
    "spelled",
    [
        {"protocol": "quick"},
        {"protocol": {"base": "quick", "min_iterations": PROTOCOLS["quick"].min_iterations}},
        {"models": [{"name": "resnet18"}]},
        {"models": [{"name": "resnet18", "weights": "random:00", "input": [3, 224, 224]}]},
        {"workflows": [{"name": "fake", "latency_ms": 1, "behaviour": "ok"}]},
        {"precisions": ["fp32"]},
        {"batch": 1},
        {"batch": {"stop": 1, "until": "out_of_memory"}},
        {"weights": "random:0", "seed": 0, "data": "uniform", "rebuilds": 1, "exclude": []},
        {"rebuilds": {"count": 1}},
        {"rebuilds": {"count": 1, "timing_cache": "shared"}},
        {"priority": 9},
    ],
)
def test_spelling_out_a_default_or_a_priority_changes_nothing(spelled: dict[str, Any]) -> None:
    assert parse(sweep(**spelled)).sweep_id == parse(sweep()).sweep_id


@pytest.mark.parametrize(
    "other",
    [
        {"name": "tiny2"},
        {"protocol": "paper"},
        {"protocol": {"base": "quick", "threads": 1}},
        {"models": ["resnet34"]},
        {"models": [{"name": "resnet18", "weights": "default"}]},
        {"weights": "random:1"},
        {"workflows": [{"name": "fake", "latency_ms": 2}]},
        {"precisions": ["fp16"]},
        {"batch": 2},
        {"batch": {"stop": 1, "until": "saturated"}},
        {"devices": ["cpu-x"]},
        {"seed": 1},
        {"weights": "digits:0"},
        {"data": "digits"},
        {"weights": "digits:0", "accuracy": {"dataset": "digits"}},
    ],
)
def test_whatever_changes_the_measurement_changes_the_id(other: dict[str, Any]) -> None:
    assert parse(sweep(**other)).sweep_id != parse(sweep()).sweep_id


def test_a_sweep_without_accuracy_has_the_id_that_it_had_before_there_was_any() -> None:
    spec = parse(sweep())
    assert spec.sweep_id == "tiny-a7beaf85004c"
    assert [job.job_id for job in jobs_at(spec, ["cls:x"], {})] == ["d7207d28a873bbfe"]


def test_every_part_of_an_accuracy_changes_the_id_and_is_in_the_jobs() -> None:
    folder = {"dataset": "imagenet", "path": "/data/imagenet"}
    said = [folder, folder | {"path": "/other"}, folder | {"limit": 5}]
    specs = [parse(sweep(weights="default", accuracy=each)) for each in said]
    assert len({spec.sweep_id for spec in specs}) == 3
    (job,) = jobs_at(specs[2], ["cls:x"], {})
    assert job.accuracy == AccuracySpec("imagenet", "/data/imagenet", 5)
    assert (job.data, job.data_path) == ("imagenet", "/data/imagenet")
    assert job.run_ids() == (job.run_id(1), job.accuracy_run_id)
    assert SweepSpec.from_document(json.loads(json.dumps(specs[2].document()))).accuracy == job.accuracy


def test_data_follow_the_accuracy_and_spelling_them_out_changes_nothing() -> None:
    short = {"weights": "digits:0", "accuracy": {"dataset": "digits"}}
    assert parse(sweep(**short)).sweep_id == parse(sweep(**short, data="digits")).sweep_id


@pytest.mark.parametrize(
    ("said", "count", "timing_cache"),
    [
        (3, 3, "cold"),
        ({"count": 3}, 3, "cold"),
        ({"count": 3, "timing_cache": "shared"}, 3, "shared"),
        ({"count": 1, "timing_cache": "cold"}, 1, "cold"),
    ],
)
def test_rebuilds_are_part_of_the_identity(said: Any, count: int, timing_cache: str) -> None:
    ways = {"workflows": ["onnx_tensorrt"]}
    spec = parse(sweep(rebuilds=said, **ways))
    assert spec.rebuilds is not None
    assert (spec.rebuilds.count, spec.rebuilds.timing_cache) == (count, timing_cache)
    assert spec.sweep_id != parse(sweep(**ways)).sweep_id
    stored = SweepSpec.from_document(json.loads(json.dumps(spec.document())))
    assert stored.model_dump() == spec.model_dump()


def test_ids_from_before_rebuilds_are_the_same() -> None:
    assert parse_sweep(WHOLE, "t").sweep_id == "whole-cdae69f07d31"
    assert parse(sweep()).sweep_id == "tiny-a7beaf85004c"


def test_an_id_is_a_safe_name_even_for_the_longest_sweep_name() -> None:
    spec = parse(sweep(name="x" * 100))
    assert check_name(spec.sweep_id, "sweep id") == spec.sweep_id
    assert len(spec.sweep_id.rpartition("-")[2]) == 12


def test_repeats_have_ids_of_their_own_and_none_is_the_first() -> None:
    spec = parse(sweep())
    ids = [spec.repeated(again).sweep_id for again in range(4)]
    assert ids[0] == spec.sweep_id
    assert len(set(ids)) == 4


def test_a_stored_sweep_comes_back_whole() -> None:
    spec = parse_sweep(WHOLE, "t").repeated(2)
    stored = json.loads(json.dumps(spec.document() | {"places": ["cls:x"], "submitted_at": 1.5}))
    again = SweepSpec.from_document(stored)
    assert again.model_dump() == spec.model_dump()
    assert again.sweep_id == spec.sweep_id


def test_a_stored_sweep_keeps_its_id_even_if_the_digest_would_differ_today() -> None:
    stored = parse_sweep(WHOLE, "t").document() | {"sweep_id": "whole-from-before"}
    assert SweepSpec.from_document(stored).sweep_id == "whole-from-before"


@pytest.mark.parametrize("damage", [{"schema": 99}, {"models": "x"}, {"protocol": {"name": "q"}}, {"batches": None}])
def test_a_damaged_stored_sweep_is_refused(damage: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError):
        SweepSpec.from_document(parse_sweep(WHOLE, "t").document() | damage)


def test_a_sweep_means_what_it_says() -> None:
    spec = parse_sweep(WHOLE, "t")
    assert spec.batches.sizes == (1, 3, 9, 27)
    assert spec.protocol.min_iterations == 50
    assert spec.protocol.min_s == PROTOCOLS["quick"].min_s
    assert spec.protocol.stage_limits_s == PROTOCOLS["quick"].stage_limits_s | {"build": 60.0}
    assert spec.protocol.name.startswith("quick-")
    assert [m.weights for m in spec.models] == ["random:7", "default", "random:7"]
    assert [m.input_shape for m in spec.models] == [(3, 224, 224), (3, 299, 299), (3, 256, 256)]
    assert [w.options for w in spec.workflows] == [{}, {"per_channel": False}]
    assert [(c.method, c.batch, c.percentile) for c in spec.calibrations] == [
        ("minmax", 1, 99.999),
        ("minmax", 4, 99.999),
        ("percentile", 1, 99.9),
        ("percentile", 4, 99.9),
    ]
    assert spec.priority == 7


def test_every_option_of_every_workflow_has_a_value_kind() -> None:
    for info in WORKFLOWS.values():
        assert set(info.values) == set(info.options), info.name


@pytest.mark.parametrize("path", sorted(Path("examples").glob("*.yaml")), ids=lambda path: path.name)
def test_the_examples_are_valid_and_fit_the_schema_for_editors(path: Path) -> None:
    load_sweep(path)
    jsonschema.validate(yaml.safe_load(path.read_text()), json_schema())


def test_the_schema_for_editors_knows_short_and_long_forms_and_refuses_unknown_names() -> None:
    jsonschema.validate(yaml.safe_load(WHOLE), json_schema())
    for rebuilds in (3, {"count": 3, "timing_cache": "shared"}):
        jsonschema.validate(sweep(rebuilds=rebuilds), json_schema())
    for wrong in ({"models": ["resnet19"]}, {"colour": 1}, {"batch": "x"}, {"protocol": "quik"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(sweep(**wrong), json_schema())


def test_profiles_are_part_of_a_sweep_that_has_them_and_of_no_other() -> None:
    text = "name: x\nmodels: [resnet18]\nworkflows: [pytorch]\n"
    plain = parse_sweep(text, "x.yaml")
    assert plain.profile == ()
    assert "profile" not in plain._identity()
    both = [parse_sweep(f"{text}profile: {said}\n", "x.yaml") for said in ("[timeline, layers]", "[layers, timeline]")]
    assert both[0].profile == both[1].profile == ("layers", "timeline")
    assert both[0].sweep_id == both[1].sweep_id != plain.sweep_id
    assert SweepSpec.from_document(both[0].document()).profile == ("layers", "timeline")
    assert next(jobs_at(both[0], ["cls:x"], {})).profile == ("layers", "timeline")
    with pytest.raises(UsageError) as caught:
        parse_sweep(f"{text}profile: layer\n", "x.yaml")
    assert "$.profile" in caught.value.problems[0]
