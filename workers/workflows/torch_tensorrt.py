# SPDX-License-Identifier: Apache-2.0
"""Torch-TensorRT, by its dynamo or its TorchScript front end: TensorRT engines inside of a PyTorch module.

Models are compiled in prepare, one for each batch. What TensorRT cannot take stays in PyTorch, and its share of the
graph is a metric: a model without any engine is a failure, never a measurement of PyTorch.
"""

import io
from typing import Any, Dict, List, Optional, Tuple

from workers.workflows import reference
from workers.workflows.base import Context, Workflow
from workers.workflows.cache import CachedFile, recorded_bytes
from workers.workflows.errors import PrecisionNotHeld, Unsupported
from workers.workflows.layers import LayerProfiler
from workers.workflows.pytorch import PyTorch, placed
from workers.workflows.torch_device import TorchDevice
from workers.workflows.torch_layers import TorchLayers
from workers.workflows.torch_setup import fp32_precision, import_torch, import_torchvision
from workers.workflows.torch_trt_build import output_of
from workers.workflows.torch_trt_compat import FRONTENDS, check_asked, held_precision, require_installed
from workers.workflows.torch_trt_engine import CompiledModels
from workers.workflows.torch_trt_graph import engine_paths


class TorchTensorRT(PyTorch):
    """The module of `pytorch`, compiled with Torch-TensorRT and loaded as TorchScript."""

    #: An engine inside of a module has one execution context, and takes one inference at a time.
    lanes = Workflow.lanes

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self._models = CompiledModels(ctx, self._model)
        self._entry: Optional[CachedFile] = None
        self._content = b""

    def setup(self) -> None:
        """Refuse what cannot work, cheapest first; import torch, find its GPU, import Torch-TensorRT."""
        device, job = self.ctx.request.device, self.ctx.job
        _check_options(self._models.frontend, self._models.options)
        check_asked(self._models.frontend, job.precision, self._models.method)
        require_installed()
        if device.kind != "gpu":
            raise Unsupported(
                "Torch-TensorRT runs on NVIDIA GPUs, not on a {}".format(device.kind),
                "Give the job to a GPU, or use `torch_compile` or `openvino` here.",
                "device-kind-unsupported",
            )
        self._torch = import_torch(self.ctx)
        self._device = TorchDevice(self._torch, device, job.precision)
        import_torchvision()
        self._models.open(self._torch, self._device)

    def prepare(self) -> None:
        """Make the weights, for int8 TensorRT's calibration table, the model of each batch, the references."""
        with self.ctx.stage("load_model"):
            self._model.weights()
        if self.ctx.job.precision == "int8":
            with self.ctx.stage("calibrate"):
                self._models.calibration()
        with self.ctx.stage("build"):
            self._models.build_all()
        with self.ctx.stage("reference"):
            reference.prepare_torch(self.ctx, self._model)

    def find(self) -> None:
        """The compiled model, read and held against its recorded digest."""
        self._entry = self._models.compiled(self.ctx.batch_size)
        self._content = recorded_bytes(self._entry)

    def load(self) -> None:
        """Deserialise the module and its engines from the bytes that were verified."""
        self._module = self._call = self._torch.jit.load(io.BytesIO(self._content))
        self._content = b""
        self._inference_mode = self._torch.inference_mode()
        self._inference_mode.__enter__()
        self._device.synchronize()

    def to_device(self, host_input: Any) -> Any:
        """A tensor of the type that the engines' input has: half for fp16, else float; ids of tokens stay int32."""
        dtype = getattr(self._torch, self._facts()["settings"]["module_dtype"])
        return placed(self._torch, host_input, self._device.name, dtype)

    def outputs(self) -> List[Tuple[str, Any]]:
        """The last inference's logits as float32."""
        return [("output", output_of(self._last).float().cpu().numpy())]

    def layer_profiler(self) -> LayerProfiler:
        """torch.profiler: kernels inside of the engines, and the operators that PyTorch runs."""
        return TorchLayers(self._torch, self._module, self._device.on_gpu, by_module=False)

    def effective(self) -> Dict[str, Any]:
        """Precision from the settings of the build and the size of the engines; engines counted in what was loaded."""
        facts, torch = self._facts(), self._torch
        engines = len(engine_paths(self._module.inlined_graph))
        if engines != facts["engines"]:
            raise PrecisionNotHeld("{} engines were built and {} were loaded".format(facts["engines"], engines))
        precision = held_precision(facts["settings"], facts["engine_bytes"], facts["weights"], fp32_precision(torch))
        return dict(
            self._device.facts(),
            precision=precision,
            threads=torch.get_num_threads(),
            provider="torch_tensorrt",
            device=self._device.name,
            torch_tensorrt=self._models.version,
            compile_settings=facts["settings"],
            plan_bytes=facts["engine_bytes"],
            reference="pytorch fp32",
            **{name: facts[name] for name in _PARTITION},
        )

    def metrics(self) -> Dict[str, float]:
        """Memory of torch's allocator, and the share of the graph's operators that PyTorch runs."""
        return dict(super().metrics(), fallback_node_share=float(self._facts()["fallback_node_share"]))

    def engine_bytes(self) -> int:
        """Size of the file that was loaded."""
        return self._found().size_bytes

    def build_s(self) -> Optional[float]:
        """Calibration and build of that file, when they were done."""
        return self._found().total_build_s

    def _found(self) -> CachedFile:
        if self._entry is None:
            self._entry = self._models.compiled(self.ctx.batch_size)
        return self._entry

    def _facts(self) -> Dict[str, Any]:
        return self._found().facts


_PARTITION = ("engines", "operators_total", "operators_in_engines", "operators_in_pytorch", "left_in_pytorch")


def _check_options(frontend: Any, options: Dict[str, Any]) -> None:
    """Refuse values that no version takes. Raises Unsupported."""
    if frontend not in FRONTENDS:
        raise Unsupported(
            "option frontend is {}, not {!r}".format(" or ".join(FRONTENDS), frontend), None, "unknown-option"
        )
    for name, low, high in (("optimization_level", 0, 5), ("min_block_size", 1, None)):
        value = options[name]
        wrong = not isinstance(value, int) or isinstance(value, bool) or value < low or (high and value > high)
        if value is not None and wrong:
            limits = "{} to {}".format(low, high) if high else "{} or more".format(low)
            raise Unsupported("option {} is {}, not {!r}".format(name, limits, value), None, "unknown-option")
    if options["require_full_compilation"] not in (None, True, False):
        raise Unsupported("option require_full_compilation is true or false", None, "unknown-option")
