# SPDX-License-Identifier: Apache-2.0
"""Strict decoding: every fault with its path, and what was encoded comes back equal."""

from __future__ import annotations

import json

import pytest

from farm.contract.canonical import canonical_json, digest
from farm.contract.codec import DecodeError, from_json, to_json
from farm.contract.job import JobSpec, Target
from farm.contract.names import check_name, check_sha256, slug
from farm.contract.record import Record
from tests.factories import make_job, make_record


def test_a_record_comes_back_equal_from_its_json() -> None:
    record = make_record()
    assert from_json(Record, json.loads(json.dumps(to_json(record)))) == record


def test_every_fault_is_reported_with_its_path() -> None:
    data = to_json(make_job())
    data["model"]["name"] = 3
    data["surprise"] = 1
    del data["workflow"]
    data["batches"]["sizes"] = [1, "two"]
    data["protocol"]["min_s"] = None
    with pytest.raises(DecodeError) as caught:
        from_json(JobSpec, data)
    text = "\n".join(caught.value.errors)
    assert len(caught.value.errors) == 5
    for part in ("$.model.name", "'surprise'", "'workflow'", "$.batches.sizes[1]", "$.protocol.min_s"):
        assert part in text


@pytest.mark.parametrize("data", [None, [], "text", 3, {"outcome": "fine"}])
def test_what_is_no_record_is_a_decode_error(data: object) -> None:
    with pytest.raises(DecodeError):
        from_json(Record, data)


def test_true_is_no_number_and_a_whole_number_is_a_float() -> None:
    data = to_json(make_job())
    data["protocol"]["min_s"] = 2
    assert from_json(JobSpec, data).protocol.min_s == 2.0
    data["seed"] = True
    with pytest.raises(DecodeError, match="seed"):
        from_json(JobSpec, data)


def test_a_number_too_large_for_a_float_is_a_decode_error() -> None:
    data = to_json(make_job())
    data["protocol"]["min_s"] = 10**400
    with pytest.raises(DecodeError, match="too large"):
        from_json(JobSpec, data)


def test_a_target_names_a_device_or_a_class_but_not_both() -> None:
    with pytest.raises(ValueError, match="either a device or a device class"):
        Target()
    with pytest.raises(DecodeError, match="either a device"):
        from_json(Target, {"device_id": "a", "device_class": "b"})


def test_equal_values_have_equal_digests_whatever_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_nan_has_no_canonical_form() -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"a": float("nan")})


@pytest.mark.parametrize(
    "bad", ["", "../x", "a/b", "a\0b", ".hidden", "a..b", "x" * 129, "ünïcode", "a b", "\u0430bc", "a\n", None]
)
def test_names_outside_the_alphabet_are_refused(bad: object) -> None:
    with pytest.raises(ValueError, match="not allowed"):
        check_name(bad, "the sweep")  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", ["", "a" * 63, "A" * 64, "g" * 64, "../" + "a" * 61, "a" * 64 + "\n"])
def test_what_is_no_digest_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="SHA-256"):
        check_sha256(bad)


def test_slugs_are_names() -> None:
    for text in ("AMD EPYC 9354P 32-Core", "", "!!!", "x" * 300):
        assert check_name(slug(text), "slug")
