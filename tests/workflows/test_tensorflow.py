# SPDX-License-Identifier: Apache-2.0
"""TensorFlow in an interpreter of its own: SavedModels given and of Keras, the probe, and what is refused."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from farm.contract.archive import files_below, pack
from farm.contract.canonical import sha256_file
from farm.contract.codec import from_json, to_json
from farm.contract.device import StackInfo
from farm.contract.job import BatchLadder, JobSpec, ModelSpec
from farm.contract.metrics import METRICS
from farm.contract.run import RunRequest
from farm.devices import Refusal, choose_stack
from tests.factories import DEVICE
from tests.island.harness import Finished, Island, artifact, model_job, stage_bundle
from tests.workflows.tensorflow_stack import NAMED, VARIABLE, require_tensorflow

pytestmark = [pytest.mark.long, pytest.mark.models]
SHAPE = (6, 6, 3)
GPU = replace(DEVICE, device_id="box-gpu", device_class="gpu-test", kind="gpu")

#: Writes SavedModels below a directory: one that can be measured, others that cannot, each for one reason.
_WRITE = """
import sys
import tensorflow as tf

shape = [None, 6, 6, 3]
kernel = tf.random.stateless_normal((3, 3, 3, 4), seed=(1, 2))

class Model(tf.Module):
    def __init__(self):
        super().__init__()
        self.kernel = tf.Variable(kernel)

    def __call__(self, batch):
        return tf.reduce_mean(tf.nn.relu(tf.nn.conv2d(tf.cast(batch, tf.float32), self.kernel, 1, "SAME")), [1, 2])

def save(name, function, *specs, key="serving_default"):
    model = Model()
    model.serve = tf.function(lambda *batches: function(model, *batches), input_signature=specs)
    tf.saved_model.save(model, sys.argv[1] + "/" + name, signatures={key: model.serve})

floats = tf.TensorSpec(shape, tf.float32, name="image")
scores = lambda model, *batches: {"scores": model(batches[0])}
save("good", scores, floats)
save("two", lambda model, a, b: {"scores": model(a) + model(b)}, floats, tf.TensorSpec(shape, tf.float32, name="mask"))
save("integers", scores, tf.TensorSpec(shape, tf.uint8, name="image"))
save("fixed", scores, tf.TensorSpec([4, *shape[1:]], tf.float32, name="image"))
save("unnamed", scores, floats, key="predict")
save("labels", lambda model, batch: {"label": tf.argmax(model(batch), 1)}, floats)
"""

_EXAMINE = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
import tensorflow as tf
from workers.workflows.errors import WorkflowError
from workers.workflows.saved_models import examine
told = {}
asked = [(name, (6, 6, 3)) for name in os.listdir(sys.argv[2])]
for name, shape in [*asked, ("good", (3, 6, 6)), ("nothing", (6, 6, 3))]:
    try:
        told[name, shape] = examine(tf, os.path.join(sys.argv[2], name), shape)
    except WorkflowError as error:
        told[name, shape] = [error.reference, error.message]
print("ANSWER" + json.dumps([[*key, value] for key, value in told.items()]))
"""


@pytest.fixture(scope="module")
def island(tmp_path_factory: pytest.TempPathFactory) -> Island:
    directory = tmp_path_factory.mktemp("tensorflow")
    return Island(stage_bundle(directory / "bundle"), directory, require_tensorflow())


@pytest.fixture(scope="module")
def saved(island: Island) -> Path:
    """Six SavedModels, written and looked at by one process each."""
    target = island.directory / "saved"
    target.mkdir()
    subprocess.run([island.python, "-I", "-c", _WRITE, target], check=True, timeout=120, capture_output=True)
    return target


def _given(island: Island, saved: Path, name: str = "good", **more: object) -> tuple[JobSpec, Path]:
    archive = island.directory / f"{name}.zip"
    pack(str(saved / name), files_below(str(saved / name)), str(archive))
    model = ModelSpec("mine", "saved_model", SHAPE, f"sha256:{'0' * 64}", sha256_file(str(archive)))
    return model_job(model, "tensorflow", batches=BatchLadder(sizes=(1, 2)), **more), archive


def test_a_given_saved_model_is_measured_against_tensorflow_itself(island: Island, saved: Path) -> None:
    job, archive = _given(island, saved)
    prepared = island.prepare(job, model_file=archive)
    assert artifact(prepared, "saved_model").sha256 == sha256_file(str(archive))
    assert [a.kind for a in prepared.artifacts].count("reference") == 2
    measured = island.measure(job, 2)
    effective = measured.effective
    assert effective["product_types"] == {"float32": 1}
    assert [effective[key] for key in ("precision", "device", "tf32", "inter_op_threads")] == [
        "fp32",
        "CPU:0",
        False,
        1,
    ]
    assert (effective["signature_input"], effective["outputs_on"]) == ("image", ["CPU:0"])
    made_by = [effective["reference_" + key] for key in ("workflow", "precision", "device", "threads")]
    assert made_by == ["tensorflow", "fp32", "cpu", effective["threads"]]
    (found,) = measured.mismatch
    assert (found.output, found.element_count, found.nonfinite_count) == ("scores", 8, 0)
    assert found.relative_l2_error < 1e-6
    assert set(measured.metrics) <= set(METRICS)
    assert all(measured.metrics[name] > 0 for name in ("throughput_per_s", "load_ms", "engine_bytes"))
    assert {"tensorflow", "keras"} >= set(measured.environment["libraries"]) - {"numpy"}
    assert not list(island.directory.glob("run-*/saved_model")), "what was unpacked goes with the process"


def test_saved_models_that_cannot_be_measured_are_refused_with_the_reason(island: Island, saved: Path) -> None:
    command = [island.python, "-I", "-c", _EXAMINE, island.bundle, saved]
    done = subprocess.run(command, check=True, timeout=120, capture_output=True, text=True)
    answer = json.loads(done.stdout.rpartition("ANSWER")[2])
    told = {(name, tuple(shape)): value for name, shape, value in answer}
    extents = [None, *SHAPE]
    assert told["good", SHAPE] == {"input": "image", "outputs": ["scores"], "input_shape": extents}
    words = {"two": "2 inputs: image, mask", "integers": "uint8", "fixed": "fixed at 4", "unnamed": "predict"}
    for name, word in (words | {"labels": "int64"}).items():
        reference, message = told[name, SHAPE]
        assert reference == "signature-unsupported", name
        assert word in message
    assert told["good", (3, 6, 6)][0] == "input-shape-mismatch"
    assert told["nothing", SHAPE][0] == "damaged-model"


def test_a_file_with_other_bytes_is_refused(island: Island, saved: Path) -> None:
    job, archive = _given(island, saved)
    other = replace(job, model=replace(job.model, onnx_sha256="1" * 64))
    island.run(other, model_file=archive).failed("failed", "damaged-model")


def test_a_model_of_keras_is_built_settled_and_measured(island: Island) -> None:
    job = _keras()
    prepared, measured = island.prepare(job), island.measure(job)
    effective = measured.effective
    assert effective["product_types"] == {"float32": 53}  # 52 convolutions and the classifier
    assert effective["parameters"] == 3_538_984
    (found,) = measured.mismatch
    assert (found.output, found.element_count) == ("output", 1000)
    assert found.relative_l2_error < 1e-5
    archives = {a.sha256 for a in (*prepared.artifacts, *measured.artifacts) if a.kind == "saved_model"}
    assert len(archives) == 1


def test_the_same_seed_gives_the_same_archive_and_another_one_does_not(island: Island, tmp_path: Path) -> None:
    """Two builds of ten seconds: run where a stack is named, and not in CI."""
    if not NAMED:
        pytest.skip(f"name a stack in {VARIABLE}")
    alone = Island(island.bundle, tmp_path, island.python)
    mine, again, other = (
        artifact(of.prepare(_keras(weights)), "saved_model").sha256
        for of, weights in ((island, "random:0"), (alone, "random:0"), (alone, "random:1"))
    )
    assert mine == again != other


def _keras(weights: str = "random:0") -> JobSpec:
    return model_job(ModelSpec("keras_mobilenet_v2", "keras", (3, 32, 32), weights), "tensorflow")


def _on_gpu(island: Island, job: JobSpec) -> Finished:
    request = RunRequest(job.run_id(None), "prepare", job, GPU, str(island.directory / "cache"))
    return island.finish(island.start_document(to_json(request)))


def test_a_tensorflow_for_cpus_has_no_tf_trt_as_its_probe_and_a_run_tell(island: Island, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    subprocess.run([island.python, "-I", island.bundle, "--probe", out], check=True, timeout=120, capture_output=True)
    stack = from_json(StackInfo, json.loads(out.read_text()))
    assert stack.problems == {}
    assert stack.features["tf_trt"] is False
    assert "was built without TensorRT" in stack.features["tf_trt_problem"]
    named = replace(stack, name="tf")
    chosen = choose_stack("tensorflow", "fp32", DEVICE, [named], {}, "keras")
    assert isinstance(chosen, StackInfo) and chosen.name == "tf"
    refusal = choose_stack("tf_trt", "int8", GPU, [named], {}, "keras")
    assert isinstance(refusal, Refusal)
    assert refusal.reference == "feature-missing"
    assert "was built without TensorRT" in refusal.reason and "pack_tensorflow" in refusal.hint
    job = replace(_keras(), workflow="tf_trt")
    failure = _on_gpu(island, job).failed("unsupported", "tf-trt-missing").failure
    assert failure is not None and "2.17 or older" in (failure.hint or "")
