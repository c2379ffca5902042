# SPDX-License-Identifier: Apache-2.0
"""Text encoders: the published architecture, and the smallest one through every workflow that runs on a CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from farm.contract.canonical import sha256_file
from farm.contract.catalogue import WORKFLOWS
from farm.contract.encoders import ENCODERS, PADDING, VOCABULARY
from farm.contract.job import BatchLadder, Calibration, ModelSpec
from tests.factories import make_job
from tests.island.harness import Island, artifact, model_job
from workers.workflows import encoders, inputs
from workers.workflows.registry import TABLE

torch = pytest.importorskip("torch")
np = pytest.importorskip("numpy")

pytestmark = [pytest.mark.long, pytest.mark.models]
TOKENS = 16
TINY = ModelSpec("bert-tiny", "encoder", (TOKENS,))
#: Of `BertModel`, which has a pooler (width x width + width) that the farm's encoders leave out.
PUBLISHED = {
    "bert-tiny": 4_385_920,
    "bert-mini": 11_170_560,
    "bert-small": 28_763_648,
    "bert-medium": 41_373_184,
    "bert-base": 109_482_240,
    "bert-large": 335_141_888,
}
#: torch_compile's is that of the contract's tests.
_CASES = [
    (name, precision)
    for name in sorted(TABLE)
    if "cpu" in WORKFLOWS[name].device_kinds
    and "encoder" in WORKFLOWS[name].sources
    and name not in ("fake", "torch_compile")
    for precision in WORKFLOWS[name].precisions_on("cpu")
]


@pytest.mark.parametrize("name", ENCODERS)
def test_the_sizes_are_the_published_ones(name: str) -> None:
    size = ENCODERS[name]
    assert size.parameters + size.width**2 + size.width == PUBLISHED[name]
    with torch.device("meta"):
        module = encoders.build(torch, ModelSpec(name, "encoder", (4,)))
    assert sum(parameter.numel() for parameter in module.parameters()) == size.parameters


def sine_state(module: Any) -> dict[str, Any]:
    """Weights from a formula, the same wherever they are made."""
    found = {}
    for i, (name, tensor) in enumerate(sorted(module.state_dict().items())):
        values = torch.sin(torch.arange(tensor.numel(), dtype=torch.float64) * 0.7 + i).float() * 0.05
        found[name] = values.view(tensor.shape) + (1.0 if name.endswith("LayerNorm.weight") else 0.0)
    return found


def test_the_outputs_are_those_of_the_published_implementation() -> None:
    """What transformers 5.23.0 gave (`BertModel`, attention `sdpa`, torch 2.13) for the same weights and tokens."""
    module = encoders.build(torch, TINY).eval()
    state = sine_state(module) | {"pooler.dense.bias": torch.zeros(128)}
    module.load_state_dict(encoders.own({f"bert.{name}": value for name, value in state.items()}))
    ids = (torch.arange(2 * TOKENS, dtype=torch.int32).view(2, TOKENS) * 907) % (VOCABULARY - 1) + 1
    with torch.inference_mode():
        found = module(ids)
    assert found.shape == (2, TOKENS, 128)
    first, last = [1.0880960, -0.1567909, -0.4265274, -0.1508002], [1.2613012, 2.0175812, 1.7290221, 0.6939062]
    assert found[0, 0, :4].tolist() == pytest.approx(first, abs=1e-5)
    assert found[1, -1, -4:].tolist() == pytest.approx(last, abs=1e-5)
    assert float((found.double() ** 2).sum()) == pytest.approx(4131.2215, rel=1e-6)


@pytest.mark.parametrize(("workflow", "precision"), _CASES, ids=["-".join(case) for case in _CASES])
def test_an_encoder_runs_as_in_pytorch_within_the_precision(shared: Island, workflow: str, precision: str) -> None:
    job = model_job(TINY, workflow, precision, batches=BatchLadder((2,)))
    shared.prepare(job)
    found = shared.measure(job, 2)
    (compared,) = found.mismatch
    assert (compared.nonfinite_count, compared.element_count) == (0, 2 * TOKENS * 128)
    assert compared.relative_l2_error < {"fp32": 1e-5, "bf16": 0.05, "int8": 0.1}[precision]
    assert (found.effective["precision"], found.effective["input_bytes"]) == (precision, 2 * TOKENS * 4)
    if precision == "int8":
        assert found.effective["quantized_nodes"]["share"] >= 0.75


def test_all_lengths_of_a_sequence_share_one_file_of_weights(shared: Island) -> None:
    longer = replace(TINY, input_shape=(24,))
    made = [artifact(shared.prepare(model_job(model, "pytorch")), "weights") for model in (TINY, longer)]
    assert made[0].path == made[1].path
    assert made[1].cached


def test_a_state_dict_of_bert_is_taken_and_one_of_another_size_is_refused(shared: Island, tmp_path: Path) -> None:
    for name, outcome in (("bert-tiny", "ok"), ("bert-mini", "failed")):
        module = encoders.build(torch, ModelSpec(name, "encoder", (4,)))
        path = tmp_path / f"{name}.pt"
        torch.save({f"bert.{key}": value for key, value in module.state_dict().items()}, path)
        model = replace(TINY, weights=f"sha256:{sha256_file(str(path))}")
        done = shared.run(model_job(model, "pytorch"), model_file=path)
        if outcome == "ok":
            done.ok()
        else:
            done.failed("failed", "damaged-model")


def test_inputs_are_seeded_tokens_of_the_vocabulary_and_never_padding() -> None:
    job = make_job(model=replace(TINY, input_shape=(512,)), seed=3)
    first, second = inputs.measuring_inputs(job, 4, 2)
    assert (first.shape, first.dtype) == ((4, 512), np.int32)
    assert first.min() > PADDING and first.max() < VOCABULARY
    assert len(np.unique(first)) > 1500
    assert (first != second).any()
    assert (inputs.measuring_inputs(job, 4, 1)[0] == first).all()
    batches = list(inputs.calibration_batches(job, Calibration("minmax", 6, 4)))
    assert [(batch.shape, str(batch.dtype)) for batch in batches] == [((4, 512), "int32"), ((2, 512), "int32")]
    assert (batches[0] != first).any()


@pytest.mark.parametrize(
    ("changes", "options", "reference"),
    [
        ({"input_shape": (513,)}, {}, "sequence-too-long"),
        ({"input_shape": (3, 224, 224)}, {}, "sequence-too-long"),
        ({"name": "bert-huge"}, {}, "unknown-model"),
        ({"weights": "default"}, {}, "unknown-weights"),
        ({}, {"channels_last": True}, "option-unsupported"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(
    shared: Island, changes: dict[str, Any], options: dict[str, Any], reference: str
) -> None:
    shared.run(model_job(replace(TINY, **changes), "pytorch", options=options)).failed("unsupported", reference)
