# SPDX-License-Identifier: Apache-2.0
"""Sequences as an axis of a sweep: a model for each length of a text encoder, and what does not go together."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from farm.contract.job import ModelSpec
from farm.sweep import SweepSpec, parse_sweep
from scheduler.expand import expand, jobs_at
from tests.sweep.conftest import Faults, sweep


def parse(**keys: Any) -> SweepSpec:
    return parse_sweep(yaml.safe_dump(sweep(**keys), sort_keys=False), "t")


def test_an_encoder_becomes_a_model_for_each_length_and_an_image_model_stays_one() -> None:
    spec = parse(models=["vit_b_16", {"name": "bert-mini", "weights": "random:07"}], sequence=[64, 512])
    assert spec.models == (
        ModelSpec("vit_b_16"),
        ModelSpec("bert-mini", "encoder", (64,), "random:7"),
        ModelSpec("bert-mini", "encoder", (512,), "random:7"),
    )
    assert [case.name for case in expand(spec)] == [
        "vit_b_16/fake/fp32", "bert-mini@64/fake/fp32", "bert-mini@512/fake/fp32",
    ]  # fmt: skip
    jobs = list(jobs_at(spec, ["cls:x"], {}))
    assert len({job.job_id for job in jobs}) == 3
    assert [job.name for job in jobs][1:] == ["bert-mini@64/fake/fp32", "bert-mini@512/fake/fp32"]
    assert [(job.model.sequence, job.model.input_type) for job in jobs] == [
        (None, "float32"), (64, "int32"), (512, "int32"),
    ]  # fmt: skip


def test_the_default_length_spelled_out_is_the_same_sweep_and_another_is_not() -> None:
    plain = parse(models=["bert-base"])
    assert plain.models == (ModelSpec("bert-base", "encoder", (128,)),)
    assert parse(models=["bert-base"], sequence=128).sweep_id == plain.sweep_id
    assert parse(models=["bert-base"], sequence=[128]).sweep_id == plain.sweep_id
    assert parse(models=["bert-base"], sequence=64).sweep_id != plain.sweep_id


def test_an_encoder_is_left_out_of_an_exclusion_by_its_name_at_every_length() -> None:
    spec = parse(models=["resnet18", "bert-mini"], sequence=[8, 16], exclude=[{"model": "bert-mini"}])
    assert [case.name for case in expand(spec)] == ["resnet18/fake/fp32"]


MISTAKES: list[tuple[str, str, dict[str, Any]]] = [
    ("$.sequence", "images have no sequence", {"sequence": 64}),
    ("$.sequence[1]", "positions for 512 tokens", {"models": ["bert-base"], "sequence": [64, 513]}),
    ("$.sequence[1]", "there twice (see [0])", {"models": ["bert-base"], "sequence": [64, 64]}),
    ("$.sequence", "at least 1", {"models": ["bert-base"], "sequence": 0}),
    ("$.models[0].input", "set the sweep's `sequence`", {"models": [{"name": "bert-base", "input": [64]}]}),
    ("$.models[0]", "did you mean 'bert-base'?", {"models": ["bert-bse"]}),
    ("$.weights", "has no weights default", {"models": ["bert-base"], "weights": "default"}),
    ("$.models[1]", "takes tokens, and data digits are images", {"models": ["alexnet", "bert-base"], "data": "digits"}),
]


@pytest.mark.parametrize(("place", "words", "keys"), MISTAKES, ids=[words for _, words, _ in MISTAKES])
def test_what_does_not_go_together_is_named_with_its_place(
    faults: Faults, place: str, words: str, keys: dict[str, Any]
) -> None:
    found = faults(**keys)
    assert any(f": {place} (line" in problem and words in problem for problem in found), found
