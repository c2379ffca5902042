# SPDX-License-Identifier: Apache-2.0
"""torch.compile: what is measured was compiled, before, from the farm's own cache; never eager execution."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from farm.contract.codec import from_json, to_json
from farm.contract.device import DeviceInfo
from farm.contract.job import BatchLadder, JobSpec, ModelSpec
from farm.contract.run import RunRequest, RunResult
from tests.island.harness import COMPILED, ROOT, Island, artifact, model_job
from workers.workflows import archive, base, inductor, torch_compile
from workers.workflows.errors import NotPrepared, ProviderFellBack, SettingNotHeld, Unsupported, WorkflowError

GPU = DeviceInfo("box-gpu0", "nvidia-x", "gpu", "box", "X", {"uuid": "GPU-0", "compute_capability": "9.0"})
pytestmark = [pytest.mark.long, pytest.mark.models]
_IMAGES = ModelSpec("alexnet", input_shape=(3, 64, 64))  # of all that have convolutions, the fewest kernels
_ALL_OPTIONS = {"mode": "max-autotune", "dynamic": True, "channels_last": True}


def test_the_first_inference_is_an_inference_and_the_compiled_code_is_the_prepared_one(
    shared: Island, tmp_path: Path
) -> None:
    job = model_job(COMPILED, "torch_compile")
    prepared = shared.prepare(job)
    measured = shared.measure(job, env={"TMPDIR": str(tmp_path)})
    effective, metrics = measured.effective, measured.metrics
    assert (effective["provider"], effective["graphs"], effective["graph_breaks"]) == ("inductor", 1, 0)
    assert effective["graphs_traced_anew"] == 0
    assert effective["compiled_kernels"] > 5
    assert metrics["build_s"] == artifact(prepared, "inductor").build_s
    assert metrics["load_ms"] < 1000 * metrics["build_s"], "loading took what was compiled before"
    assert metrics["first_inference_ms"] < metrics["load_ms"] / 2
    assert (effective["tf32"], effective["fp32_matmul_precision"]) == (False, "highest")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [], "nothing was compiled beside the cache"


def test_every_option_is_compiled_for_each_batch_size(shared: Island) -> None:
    job = model_job(_IMAGES, "torch_compile", options=_ALL_OPTIONS, batches=BatchLadder(sizes=(2,)))
    shared.prepare(job)
    measured = shared.measure(job, 2)
    assert {key: measured.effective[key] for key in _ALL_OPTIONS} == _ALL_OPTIONS
    assert measured.metrics["relative_l2_error"] < 1e-5
    shared.run(job, 1).failed("failed", "not-prepared")


@pytest.mark.parametrize(("mode", "says"), [("reduce-overhead", "CUDA graphs"), ("fastest", "not 'fastest'")])
def test_modes_that_a_cpu_does_not_have_are_refused(shared: Island, mode: str, says: str) -> None:
    failure = shared.run(model_job(COMPILED, "torch_compile", options={"mode": mode}), 1)
    refused = failure.failed("unsupported", "mode-unsupported").failure
    assert refused is not None
    assert says in refused.message


def test_without_a_compiler_it_is_unsupported_with_a_hint(shared: Island, tmp_path: Path) -> None:
    job = model_job(COMPILED, "torch_compile")
    for batch_size in (None, 1):
        failure = shared.run(job, batch_size, env={"PATH": str(tmp_path)}).failed("unsupported", "compiler-missing")
        assert failure.failure is not None
        assert "'g++'" in failure.failure.message
        assert "apt-get install g++" in (failure.failure.hint or "")
        assert failure.failure.stage == "start"


def test_a_torch_that_is_told_to_run_eagerly_is_found_out(shared: Island) -> None:
    job = model_job(COMPILED, "torch_compile")
    shared.run(job, env={"TORCHDYNAMO_DISABLE": "1"}).failed("failed", "provider-fell-back")


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"graphs": 0, "loaded": 0}, ProviderFellBack),
        ({"graphs": 2}, ProviderFellBack),
        ({"graph_breaks": 1}, ProviderFellBack),
        ({"compiled_anew": 1}, NotPrepared),
        ({"loaded": 0}, NotPrepared),
    ],
)
def test_what_dynamo_counted_decides(changed: dict[str, int], error: type[Exception]) -> None:
    sound = {"graphs": 1, "graph_breaks": 0, "loaded": 1, "compiled_anew": 0}
    torch_compile._assert_compiled(sound, 0)
    with pytest.raises(error):
        torch_compile._assert_compiled(sound | changed, 0)
    with pytest.raises(NotPrepared, match="3 kernels anew"):
        torch_compile._assert_compiled(sound, 3)


def test_a_graph_break_is_unsupported_and_no_mix_of_compiled_and_eager() -> None:
    torch = pytest.importorskip("torch")

    def broken(x: Any) -> Any:
        torch._dynamo.graph_break()
        return x + 1

    with pytest.raises(Exception, match="graph_break") as caught:
        torch.compile(broken, backend=inductor.compile_only("default"), fullgraph=True)(torch.zeros(1))
    found = inductor.explained(caught.value)
    assert isinstance(found, Unsupported)
    assert found.reference == "graph-break"


def test_what_the_compiler_says_becomes_the_right_failure() -> None:
    class InvalidCxxCompiler(RuntimeError):  # noqa: N818 - Inductor's name
        pass

    class InductorError(RuntimeError):
        def __init__(self, inner_exception: Exception) -> None:
            super().__init__(f"{type(inner_exception).__name__}: {inner_exception}")
            self.inner_exception = inner_exception

    def reference_of(error: Exception) -> str | None:
        return getattr(inductor.explained(error), "reference", None)

    assert reference_of(InductorError(InvalidCxxCompiler("g++"))) == "compiler-missing"
    assert reference_of(InductorError(RuntimeError("C++ compile error"))) == "compile-failed"
    assert reference_of(RuntimeError("DefaultCPUAllocator: can't allocate memory")) is None


def test_an_archive_holds_the_same_bytes_for_the_same_code_and_needs_a_kernel(tmp_path: Path) -> None:
    source = tmp_path / "cache"
    (source / "locks").mkdir(parents=True)
    (source / "ab").mkdir()
    (source / "locks/one.lock").write_text("")
    with pytest.raises(WorkflowError, match="no kernel"):
        inductor.pack(str(source), str(tmp_path / "none.zip"))
    (source / "ab/kernel.so").write_bytes(b"code")
    archives = [tmp_path / "1.zip", tmp_path / "2.zip"]
    assert [inductor.pack(str(source), str(path)) for path in archives] == [1, 1]
    assert archives[0].read_bytes() == archives[1].read_bytes()
    assert zipfile.ZipFile(archives[0]).namelist() == ["ab/kernel.so"]
    archive.unpack(str(archives[0]), str(tmp_path / "out"))
    assert (tmp_path / "out/ab/kernel.so").read_bytes() == b"code"


def _as_for_a_gpu(cache: Path, control: Path, job: JobSpec, batch: int | None, *command: str) -> RunResult:
    """Run a request for a GPU in a process of its own; `command` is a script that does it, else the runner itself."""
    control.mkdir()
    mode = "prepare" if batch is None else "measure"
    request = RunRequest("r", mode, job, GPU, str(cache), batch, None)
    (control / "request.json").write_text(json.dumps(to_json(request)))
    subprocess.run(
        [sys.executable, *(command or ("-m", "workers.runner")), str(control)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        timeout=480,
        check=True,
    )
    return from_json(RunResult, json.loads((control / "result.json").read_text()))


def test_what_is_compiled_for_a_gpu_is_run_once_and_found_again_where_it_was_compiled(
    shared: Island, tmp_path: Path
) -> None:
    """Takes as long as Inductor compiles; nothing less shows that its own paths, and the switch of TF32, match."""
    cache = shared.directory / "cache"
    job = model_job(_IMAGES, "torch_compile", "tf32")
    script = str(ROOT / "tests/workflows/gpu_path_on_cpu.py")
    prepared = _as_for_a_gpu(cache, tmp_path / "prepare", job, None, script)
    assert prepared.outcome == "ok", prepared.failure
    measured = _as_for_a_gpu(cache, tmp_path / "measure", job, 1, script)
    assert measured.outcome == "ok", measured.failure
    assert measured.effective["graphs_traced_anew"] == 0
    assert measured.metrics["relative_l2_error"] < 1e-5
    assert [path for path in (cache / "inductor_work").rglob("*") if path.is_file()] == []


@pytest.mark.skipif(importlib.util.find_spec("triton") is not None, reason="this interpreter has triton")
@pytest.mark.parametrize("batch", [None, 1])
def test_a_gpu_without_triton_is_unsupported(tmp_path: Path, batch: int | None) -> None:
    failure = _as_for_a_gpu(tmp_path, tmp_path / "run", model_job(COMPILED, "torch_compile", "fp16"), batch).failure
    assert failure is not None
    assert failure.reference == "missing-library"
    assert "triton" in failure.message


def test_cuda_graphs_that_were_left_out_are_found_out() -> None:
    torch_compile._assert_cuda_graphs("reduce-overhead", {"cuda_graphs_skipped": 0})
    torch_compile._assert_cuda_graphs("max-autotune", {"cuda_graphs_skipped": 1})
    with pytest.raises(SettingNotHeld):
        torch_compile._assert_cuda_graphs("reduce-overhead", {"cuda_graphs_skipped": 1})


def test_triton_needs_a_c_compiler_and_the_key_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(Unsupported, match="gcc or clang") as caught:
        inductor.host_key(on_gpu=True)
    assert caught.value.reference == "compiler-missing"
    compiler = tmp_path / "clang"
    compiler.write_text("#!/bin/sh\necho clang 99\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("TRITON_DEBUG", "1")
    found = inductor.host_key(on_gpu=True)
    assert found["compiler"] == f"{compiler}: clang 99"
    assert found["variables"]["TRITON_DEBUG"] == "1"


def test_compiling_in_a_place_leaves_the_environment_and_the_place_as_they_were(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/before")
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    place = tmp_path / "work"
    (place / "old").mkdir(parents=True)
    with inductor.compiling_in(str(place)) as directory:
        assert (os.environ["TORCHINDUCTOR_CACHE_DIR"], os.environ["TRITON_CACHE_DIR"]) == (directory, f"{place}/triton")
        assert list(place.iterdir()) == []
        (place / "kernel.cubin").write_bytes(b"code")
        assert inductor.kernel_count(directory) == 1
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/before"
    assert "TRITON_CACHE_DIR" not in os.environ
    assert not place.exists()


def test_compiled_code_for_a_gpu_belongs_to_a_device_and_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (torch_compile, base):
        monkeypatch.setattr(module, "versions", lambda *names: dict.fromkeys(names, "0"))

    def key(device: DeviceInfo) -> Any:
        request: Any = type("Request", (), {"device": device})
        cache: Any = type("Cache", (), {"root": "/cache"})
        job = model_job(COMPILED, "torch_compile", "tf32")
        context: Any = type("Context", (), {"job": job, "request": request, "cache": cache, "threads": 1})
        made = torch_compile.TorchCompile(context)
        monkeypatch.setattr(made._model, "key", dict)
        return made._key(1)

    assert key(GPU) == key(GPU)
    others = (
        replace(GPU, device_id="box-gpu1"),
        replace(GPU, device_class="nvidia-y"),
        replace(GPU, facts=GPU.facts | {"driver_version": "1"}),
        replace(GPU, facts=GPU.facts | {"compute_capability": "8.0"}),
    )
    assert all(key(other) != key(GPU) for other in others)
    assert set(key(replace(GPU, kind="cpu"))) == {
        "model", "precision", "mode", "dynamic", "channels_last", "batch", "threads", "versions", "host",
    }  # fmt: skip
