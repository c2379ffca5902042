# SPDX-License-Identifier: Apache-2.0
"""A stand-in for `torch_tensorrt` 2.2: an "engine" is a number, and PyTorch runs the module that it stands for.

It shows that the workflow's own steps fit together. It proves nothing about Torch-TensorRT or any hardware.
"""

from __future__ import annotations

import copy
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

#: The modules behind the engines of this process. The operator is defined once, for all tests.
ENGINES: list[Any] = []
_LIBRARY = torch.library.Library("tensorrt", "DEF")
_LIBRARY.define("execute_engine(Tensor[] inputs, Tensor engine) -> Tensor[]")
_LIBRARY.impl("execute_engine", lambda inputs, engine: [ENGINES[int(engine)](*inputs)], "CompositeExplicitAutograd")


class Engine(torch.nn.Module):
    """What the dynamo front end puts in place of a part of the graph."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        ENGINES.append(module)
        self.register_buffer("engine", torch.tensor(len(ENGINES) - 1))

    def forward(self, x: Any) -> Any:
        return torch.ops.tensorrt.execute_engine([x], self.engine)[0]


class _Calibrator:
    pass


def torch_tensorrt(seen: list[Any], limit: int, leave: bool) -> Any:
    """The module. `seen` gets each call's arguments; from batch `limit` on memory runs out; `leave`: no engine."""
    compiler = SimpleNamespace(convert_module=lambda module, _inputs, **_more: Engine(module))

    def dynamo_compile(
        exported_program: Any,
        inputs: Any,
        *,
        disable_tf32: bool = False,
        enabled_precisions: Any = None,
        truncate_long_and_double: bool = False,
        require_full_compilation: bool = False,
        min_block_size: int = 5,
        optimization_level: int | None = None,
        output_format: str = "exported_program",
    ) -> Any:
        raise AssertionError("called through torch_tensorrt.compile")

    def ts_compile(
        module: Any,
        inputs: Any = None,
        disable_tf32: bool = False,
        enabled_precisions: Any = None,
        calibrator: object = None,
        truncate_long_and_double: bool = False,
        require_full_compilation: bool = False,
        min_block_size: int = 3,
    ) -> Any:
        raise AssertionError("called through torch_tensorrt.compile")

    def compile_model(module: Any, ir: str, inputs: Any, **settings: Any) -> Any:
        settings = copy.deepcopy(settings)  # as the library does: what cannot be copied fails here
        seen.append(dict(settings, ir=ir, shape=inputs[0].shape, dtype=inputs[0].dtype))
        if inputs[0].shape[0] >= limit:
            raise RuntimeError("CUDA out of memory. Tried to allocate 9.00 GiB")
        calibrator = settings.get("calibrator")
        if calibrator is not None and not calibrator.read_calibration_cache():
            while calibrator.get_batch(["input_0"]) is not None:
                pass
            calibrator.write_calibration_cache(memoryview(b"table"))
        whole = copy.deepcopy(module)
        if ir == "ts":
            example = torch.zeros(inputs[0].shape, dtype=inputs[0].dtype)
            return module if leave else torch.jit.trace(Engine(whole), example)
        part = torch.fx.symbolic_trace(whole)
        return part if leave else _around(compiler.convert_module(part, inputs))

    module = ModuleType("torch_tensorrt")
    module.__spec__ = ModuleSpec("torch_tensorrt", None)
    vars(module).update(
        __version__="2.2.0+stand-in",
        compile=compile_model,
        Input=lambda shape, dtype: SimpleNamespace(shape=shape, dtype=dtype),
        dynamo=SimpleNamespace(compile=dynamo_compile, _compiler=compiler),
        ts=SimpleNamespace(compile=ts_compile),
        _C=SimpleNamespace(IInt8EntropyCalibrator2=_Calibrator, IInt8MinMaxCalibrator=_Calibrator),
    )
    return module


def _around(engine: Any) -> Any:
    """A graph of one engine whose result is doubled and halved by PyTorch, given as a tuple."""
    graph = torch.fx.Graph()
    found = graph.call_module("_run_on_acc_0", (graph.placeholder("x"),))
    doubled = graph.call_function(torch.ops.aten.mul.Tensor, (found, 2.0))
    graph.output((graph.call_function(torch.ops.aten.div.Tensor, (doubled, 2.0)),))
    return torch.fx.GraphModule({"_run_on_acc_0": engine}, graph)
