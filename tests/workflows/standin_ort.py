# SPDX-License-Identifier: Apache-2.0
"""GPU providers of ONNX Runtime played by its CPU provider: the steps of the workflows, not a word about hardware."""

from __future__ import annotations

import ctypes
import json
import shutil
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from workers.workflows import cuda_driver, onnx_session, ort_graph, ort_providers
from workers.workflows.onnxruntime_cuda import OnnxRuntimeCuda

LOG = "[W] Missing scale and zero-point for tensor odd, expect fall back to non-int8 implementation"


class TensorRT:
    """What the provider does around a session, as its source has it, with switches for what may go wrong."""

    def __init__(self) -> None:
        self.built: list[str] = []
        #: The options of every session.
        self.opened: list[dict[str, str]] = []
        self.limit = 10**9
        self.rebuilds = False
        self.splits = False
        self.renames = False
        self.drops_flags = False
        self.log = ""

    def open(self, path: str, threads: int, providers: Any, profile: str | None = None) -> Any:
        """`onnx_session.open_session` with a provider that builds what it does not find."""
        import os

        (name, options), _cuda = providers
        assert name == ort_providers.TENSORRT
        self.opened.append(options)
        os.write(2, self.log.encode())
        if self.splits and "trt_profile_min_shapes" in options:
            raise onnx_session.WorkflowError("Following input(s) has no associated shape profiles provided: mid")
        session = _open_on_cpu(path, threads, None, profile)
        return Session(self, session, path, options)

    def build(self, path: str, options: dict[str, str], batch: int) -> None:
        """Leave an engine, its profile and timings, and what was given to TensorRT."""
        kept = Path(options["trt_engine_cache_path"])
        flags = [name for name in ("fp16", "int8") if options[f"trt_{name}_enable"] == "True"]
        name = "_".join([f"TRTKernel_{Path(path).name}_b{batch}", *([] if self.drops_flags else flags)])
        engine = kept / f"{name}_sm90.engine"
        if options.get("trt_int8_calibration_table_name"):
            assert (kept / options["trt_int8_calibration_table_name"]).stat().st_size > 0
        if engine.exists() and not self.rebuilds:
            return
        if batch > self.limit:
            raise RuntimeError("[ONNXRuntimeError] : 11 : EP_FAIL : TensorRT EP could not build engine: OutOfMemory")
        self.built.append(engine.name)
        engine.write_bytes(f"engine {len(self.built)} {options}".encode())
        engine.with_suffix(".profile").write_text(options.get("trt_profile_opt_shapes", "none"))
        (kept / "TensorrtExecutionProvider_cache_sm90.timing").write_text("timings")
        if options["trt_dump_subgraphs"] == "True":
            self._dump(path)

    def _dump(self, path: str) -> None:
        import onnx

        target = Path("TensorrtExecutionProvider_TRTKernel_graph_1.onnx")
        shutil.copyfile(path, target)
        if self.renames:
            model = onnx.load(str(target))
            for node in model.graph.node:
                node.output[:] = [f"other_{name}" for name in node.output]
            onnx.save(model, str(target))


class Session:
    """A CPU session that says it is TensorRT's. Engines are built at the start, or at the first run."""

    def __init__(self, library: TensorRT, session: Any, path: str, options: dict[str, str]) -> None:
        self._library, self._session, self._path, self._options = library, session, path, options
        shapes = options.get("trt_profile_opt_shapes")
        if shapes is not None:
            library.build(path, options, int(shapes.split(":")[1].split("x")[0]))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run_with_iobinding(self, binding: Any, options: Any = None) -> None:
        """Run; without a profile this is where engines are looked for."""
        self._session.run_with_iobinding(binding, options)
        if "trt_profile_opt_shapes" not in self._options:
            self._library.build(self._path, self._options, len(binding.copy_outputs_to_cpu()[0]))

    def get_providers(self) -> list[str]:
        return [ort_providers.TENSORRT, ort_providers.CUDA, ort_providers.CPU]

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        return {ort_providers.TENSORRT: self._options, ort_providers.CUDA: {"device_id": "0"}}

    def end_profiling(self) -> str:
        """The CPU's profile with all but the last node in one of TensorRT's."""
        path = Path(self._session.end_profiling())
        nodes = [e for e in json.loads(path.read_text()) if e.get("cat") == "Node" and "provider" in e.get("args", {})]
        fused = {"cat": "Node", "name": "TRTKernel_0_kernel_time", "args": {"op_name": "TRTKernel_0"}}
        fused["args"] |= {"provider": ort_providers.TENSORRT, "node_index": "0"}
        path.write_text(json.dumps([fused, nodes[-1]]))
        return str(path)


_open_on_cpu = onnx_session.open_session
RunOptions = onnxruntime.RunOptions


def install_graphs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let a session's first run bind all later ones to its memory, and copies on the device be copies on the host."""
    calls: list[str] = []
    captured: dict[int, Any] = {}

    class Graphed(ort_graph.OrtGraph):
        """The session, with a provider that captures."""

        def __init__(self, session: Any, host_input: Any, copies: bool) -> None:
            super().__init__(Capturing(session), host_input, copies)

    class Capturing:
        """Runs what its first binding says, whatever it is given."""

        def __init__(self, session: Any) -> None:
            self._session = session

        def __getattr__(self, name: str) -> Any:
            return getattr(self._session, name)

        def run_with_iobinding(self, binding: Any) -> None:
            calls.append("replay" if id(self) in captured else "capture")
            self._session.run_with_iobinding(captured.setdefault(id(self), binding))

    class Copy:
        def __call__(self, target: int, source: int, size: int) -> None:
            calls.append("copy")
            ctypes.memmove(target, source, size)

    monkeypatch.setattr(ort_graph, "DeviceCopy", Copy)
    monkeypatch.setattr(ort_graph, "OrtGraph", Graphed)
    return calls


def install(monkeypatch: pytest.MonkeyPatch) -> TensorRT:
    """Put the stand-ins where the GPU's library would be asked."""
    import onnxruntime as ort

    library, bind = TensorRT(), onnx_session.Bound.__init__
    # A copy, since a value on the CPU borrows the array's memory, and one on a device has its own.
    monkeypatch.setattr(
        onnx_session.Bound,
        "__init__",
        lambda self, session, x, _device="cpu", outputs=True: bind(self, session, x.copy(), "cpu", outputs),
    )
    monkeypatch.setattr(cuda_driver, "check_one_gpu", lambda: None)
    monkeypatch.setattr(ort_providers, "check_listed", lambda _provider: None)
    monkeypatch.setattr(ort_providers, "require_provider", lambda _provider: ort)
    monkeypatch.setattr(ort_providers, "linked_tensorrt", lambda _ort: (8, "8.6.0"))
    monkeypatch.setattr(OnnxRuntimeCuda, "provider", ort_providers.CPU)
    monkeypatch.setattr(OnnxRuntimeCuda, "_providers", lambda _self, _graph=False: None)

    def open_session(path: str, threads: int, providers: Any = None, profile: str | None = None) -> Any:
        opener = library.open if providers else _open_on_cpu
        return opener(path, threads, providers, profile)

    monkeypatch.setattr(onnx_session, "open_session", open_session)
    return library
