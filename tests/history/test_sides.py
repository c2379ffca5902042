# SPDX-License-Identifier: Apache-2.0
"""What stands for before and now, decided from records that differ in one thing at a time."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from farm.contract.device import StackInfo
from farm.contract.record import BlobRef, Record
from farm.history.sides import choose_sides
from tests.factories import DEVICE, make_job, make_record

LIBRARIES = {"onnxruntime": "1.20", "onnx": "1.15", "numpy": "2.0", "torch": "2.8", "torchvision": "0.23"}
NOW = StackInfo("default", "/venv/bin/python", "3.11.7", LIBRARIES)


def ref(kind: str, digit: str, *, manifest: bool = True) -> BlobRef:
    """A prepared file, by one digit of its digest."""
    return BlobRef(kind, digit * 64, 8, manifest=digit * 63 + "0" if manifest else None)


def record(files: str = "a", **changes: Any) -> Record:
    """A run of one quantised model: `files` has a digit for each, engine first, then reference."""
    refs = [ref("onnx_int8", files[0]), ref("reference", files[-1]), BlobRef("log", files[0] * 64, 8)]
    fields: dict[str, Any] = {
        "job": make_job(precision="int8"),
        "artifacts": refs,
        "stack": NOW,
        "host": {"kernel": "6.1"},
        "environment": {"libraries": {"onnxruntime": "1.20", "numpy": "2.0"}},
    }
    return make_record(**fields | changes)


def with_driver(version: str) -> Any:
    """The device with this driver."""
    return dataclasses.replace(DEVICE, facts=DEVICE.facts | {"driver_version": version})


def test_another_file_of_the_same_software_is_pinned_on_both_sides() -> None:
    found = choose_sides([record("ac")], [record("bc")], [NOW])
    assert found.how == "ab"
    assert found.base is not None
    assert [(pin.kind, pin.sha256[0]) for pin in found.base.pins] == [("onnx_int8", "a"), ("reference", "c")]
    assert [(pin.kind, pin.sha256[0]) for pin in found.new.pins] == [("onnx_int8", "b"), ("reference", "c")]
    assert {pin.run_id for pin in found.base.pins} == {record().run_id}
    assert found.base.stack == found.new.stack == "default"
    assert found.told.startswith("onnx_int8 of run ")
    assert not found.by_stack


def test_each_batch_size_brings_its_own_files() -> None:
    base = [record("ac", batch_size=1), record("ad", batch_size=2)]
    now = [record("be", batch_size=1), record("bf", batch_size=2)]
    found = choose_sides(base, now, [NOW])
    assert found.base is not None
    assert sorted(pin.sha256[0] for pin in found.base.pins) == ["a", "c", "d"]
    assert sorted(pin.sha256[0] for pin in found.new.pins) == ["b", "e", "f"]
    alone = choose_sides(base[:1], now, [NOW])
    assert alone.how == "again"
    assert "not on record" in alone.why


def test_a_file_from_before_manifests_were_kept_cannot_be_pinned() -> None:
    old = record("a", artifacts=[ref("onnx_int8", "a", manifest=False)])
    found = choose_sides([old], [record("b", artifacts=[ref("onnx_int8", "b")])], [NOW])
    assert (found.how, found.base) == ("again", None)
    assert "another onnx_int8 runs" in found.why


def older(**changes: Any) -> Record:
    """A run with an older ONNX Runtime."""
    stack = dataclasses.replace(NOW, libraries=LIBRARIES | {"onnxruntime": "1.19"})
    return record(stack=stack, environment={"libraries": {"onnxruntime": "1.19", "numpy": "2.0"}}, **changes)


def other_stack(**changes: Any) -> StackInfo:
    """A stack that still has it."""
    fields = {"name": "before", "libraries": LIBRARIES | {"onnxruntime": "1.19", "torch": "2.1"}} | changes
    return dataclasses.replace(NOW, **fields)


def test_older_libraries_run_on_the_stack_that_has_them() -> None:
    found = choose_sides([older()], [record("b")], [NOW, other_stack()])
    assert found.how == "ab"
    assert found.base is not None
    assert (found.base.stack, found.new.stack) == ("before", "default")
    assert found.base.pins == found.new.pins == ()
    assert "onnxruntime 1.19 -> 1.20" in found.told
    assert found.by_stack


@pytest.mark.parametrize(
    "stack",
    [
        other_stack(libraries=LIBRARIES),
        other_stack(libraries=LIBRARIES | {"onnxruntime": "1.19", "numpy": "1.26"}),
        other_stack(python_version="3.12.1"),
        other_stack(name="default"),
        other_stack(libraries={"onnxruntime": "1.19", "numpy": "2.0"}, problems={"onnx": "ImportError"}),
    ],
)
def test_a_stack_that_is_not_quite_the_one_before_is_none(stack: StackInfo) -> None:
    found = choose_sides([older()], [record("b")], [NOW, stack])
    assert found.how == "again"
    assert "no stack of the device has the libraries of before (onnxruntime 1.19 -> 1.20)" in found.why


@pytest.mark.parametrize(
    ("old", "why"),
    [
        (record(host={"kernel": "6.0"}), "kernel 6.0 -> 6.1, which cannot be put back"),
        (record("c", host={"kernel": "6.0"}), "kernel 6.0 -> 6.1, which cannot be put back"),
        (older(host={"kernel": "6.0"}), "kernel 6.0 -> 6.1, which cannot be put back"),
        (record(), "the software and the prepared files are those of before"),
    ],
)
def test_what_cannot_run_again_leaves_the_nights_before(old: Record, why: str) -> None:
    found = choose_sides([old], [record()], [NOW, other_stack()])
    assert (found.how, found.base, found.why) == ("again", None, why)
    assert found.told == "the nights around 2026-03-01"


def test_another_driver_cannot_be_put_back() -> None:
    old, young = (record(device=with_driver(version)) for version in ("550", "560"))
    found = choose_sides([old], [young], [NOW])
    assert found.how == "again"
    assert "driver 550 -> 560" in found.why


def test_that_the_runner_itself_changed_is_told() -> None:
    old = record("a", provenance={"runner_digest": "12" * 32})
    found = choose_sides([old], [record("b")], [NOW])
    assert found.how == "ab"
    assert "the farm's own runner has changed too" in found.told
