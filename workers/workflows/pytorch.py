# SPDX-License-Identifier: Apache-2.0
"""PyTorch eager: the reference for speed-up and mismatch. fp32 means TF32 and every other shortcut off."""

import copy
from typing import Any, Dict, List, Optional, Tuple

from farm.contract.run import Mismatch
from workers.workflows import cuda_graph, reference
from workers.workflows.base import Context, DeviceTimer, Lane, Workflow
from workers.workflows.errors import PrecisionNotHeld, Unsupported
from workers.workflows.layers import LayerProfiler
from workers.workflows.torch_device import TorchDevice
from workers.workflows.torch_lane import Graphed, TorchLane
from workers.workflows.torch_layers import TorchLayers
from workers.workflows.torch_models import TorchModel
from workers.workflows.torch_setup import fp32_precision, import_torch, import_torchvision

_DTYPES = {"fp32": "float32", "tf32": "float32", "fp16": "float16", "bf16": "bfloat16"}


class PyTorch(Workflow):
    """Eager execution on the CPU or a GPU, in inference mode."""

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self._model = TorchModel(ctx)
        self._channels_last = ctx.job.options.get("channels_last", False)
        self._cuda_graph = cuda_graph.asked(ctx.job.options)
        self._module: Any = None
        #: What runs: the module, or its CUDA graphs.
        self._call: Any = None
        self._graphed: List[Graphed] = []
        self._replicas: List[Any] = []
        self._torch: Any = None
        self._device: Any = None
        self._last: Any = None
        self._inference_mode: Any = None

    def setup(self) -> None:
        """Import torch and torchvision, which takes seconds that are not the model's."""
        if not isinstance(self._channels_last, bool):
            raise Unsupported("option channels_last is true or false, not {!r}".format(self._channels_last))
        if not self.ctx.preparing:
            self._torch = import_torch(self.ctx)
            self._device = TorchDevice(self._torch, self.ctx.request.device, self.ctx.job.precision)
            import_torchvision()

    def prepare(self) -> None:
        """Make the weights and the reference outputs; eager execution builds nothing."""
        with self.ctx.stage("load_model"):
            self._model.weights()
        with self.ctx.stage("reference"):
            reference.prepare_torch(self.ctx, self._model)

    def find(self) -> None:
        """The state dict that prepare kept."""
        self._model.weights()

    def load(self) -> None:
        """Build the module, load its weights, convert it."""
        dtype = self._dtype()
        module = self._model.module().to(dtype).to(self._device.name)
        if self._channels_last:
            module = module.to(memory_format=self._torch.channels_last)
        _assert_dtype(module, dtype)
        self._module = self._call = module
        # Entered once: entering it for each inference would be part of every sample.
        self._inference_mode = self._torch.inference_mode()
        self._inference_mode.__enter__()
        self._device.synchronize()
        if self._cuda_graph and self.ctx.job.protocol.scenario != "streams":
            self._call = self._graphs()

    def _graphs(self, module: Any = None) -> Graphed:
        """Something to call in a module's place, which captures CUDA graphs."""
        reuse = self.ctx.job.protocol.boundary == "end_to_end"
        self._graphed.append(Graphed(self._torch, module or self._module, reuse))
        return self._graphed[-1]

    def to_device(self, host_input: Any) -> Any:
        """A tensor of the model's precision and memory format; with CUDA graphs, and a graph for it."""
        return self._call.place(self._tensor(host_input)) if self._graphed else self._tensor(host_input)

    def _tensor(self, host_input: Any) -> Any:
        tensor = placed(self._torch, host_input, self._device.name, self._dtype())
        return tensor.contiguous(memory_format=self._torch.channels_last) if self._channels_last else tensor

    def infer(self, batch: Any) -> None:
        """One forward; on a CPU it is done when it returns, on a GPU it may only have begun."""
        self._last = self._call(batch)

    def synchronize(self) -> None:
        """Wait for the GPU."""
        self._device.synchronize()

    def lanes(self, count: int) -> List[Lane]:
        """Each with a stream of its own on a GPU, and there, where they were asked for, its own CUDA graphs.

        They share one module, or as many replicas of it, each with its own weights, as the protocol has `sessions`.
        """
        self._replicas = [copy.deepcopy(self._module) for _ in range(self._sessions - 1)]
        self._device.synchronize()
        calls = [self._call, *self._replicas]
        return [self._lane(calls[number % len(calls)]) for number in range(count)]

    @property
    def _sessions(self) -> int:
        return self.ctx.job.protocol.sessions or 1

    def threads_at_work(self) -> Optional[int]:
        """Each lane has threads of its own, on a CPU."""
        return None if self._device.on_gpu else self.ctx.threads * self.ctx.job.protocol.in_flight

    def _lane(self, module: Any) -> Lane:
        call, place = module, self._tensor
        if self._cuda_graph:
            graphs = self._graphs(module)
            call, place = graphs, lambda host: graphs.place(self._tensor(host))
        return TorchLane(self._torch, call, place, self.ctx.threads, self._device.on_gpu)

    def ran(self) -> Dict[str, Any]:
        """Whether CUDA graphs were launched, where they were asked for; how many modules the lanes shared."""
        ran = {"sessions": self._sessions} if self.ctx.job.protocol.scenario == "streams" else {}
        if not self._cuda_graph:
            return ran
        found = [graphed.facts() for graphed in self._graphed]
        return dict(ran, cuda_graph=dict(found[0], graphs=sum(facts["graphs"] for facts in found)))

    def layer_profiler(self) -> LayerProfiler:
        """torch.profiler: each leaf module a row."""
        return TorchLayers(self._torch, self._module, self._device.on_gpu, by_module=True)

    def device_timer(self) -> Optional[DeviceTimer]:
        """CUDA events, on a GPU."""
        found: Optional[DeviceTimer] = self._device.timer()
        return found

    def outputs(self) -> List[Tuple[str, Any]]:
        """The last forward's logits as float32."""
        return [("output", self._last.float().cpu().numpy())]

    def compare(self, outputs: List[Tuple[str, Any]]) -> List[Mismatch]:
        """Against PyTorch fp32 with the same weights: in fp32 itself again, so close to 0."""
        return reference.compare(self.ctx, outputs, reference.torch_key(self.ctx, self._model.key()))

    def effective(self) -> Dict[str, Any]:
        """Precision is read from the parameters, threads from torch."""
        dtypes = {str(p.dtype).replace("torch.", "") for p in self._module.parameters()}
        held = dict(precision=self._held(dtypes.pop()) if len(dtypes) == 1 else "mixed", **self._device.facts())
        return {
            **held,
            "threads": self._torch.get_num_threads(),
            "provider": "pytorch-eager",
            "device": str(next(self._module.parameters()).device),
            "channels_last": self._channels_last,
            "reference": "pytorch fp32",
            "fp32_matmul_precision": self._torch.get_float32_matmul_precision(),
            "tf32": bool(self._torch.backends.cuda.matmul.allow_tf32),
        }

    def _dtype(self) -> Any:
        """The type that the precision gives to weights and inputs."""
        return getattr(self._torch, _DTYPES[self.ctx.job.precision])

    def _held(self, dtype: str) -> str:
        """The precision behind a parameter's type; on a GPU fp32 is also a matter of torch's switches."""
        names = {"bfloat16": "bf16", "float16": "fp16", "float32": fp32_precision(self._torch)}
        return names.get(dtype, "other")

    def cache_bytes(self) -> Optional[int]:
        """Of the device that runs."""
        found: Optional[int] = self._device.cache_bytes()
        return found

    def metrics(self) -> Dict[str, float]:
        """Memory of torch's allocator on a GPU."""
        found: Dict[str, float] = self._device.metrics()
        return found

    def engine_bytes(self) -> int:
        """Size of the state dict's file."""
        return self._model.weights().size_bytes

    def close(self) -> None:
        """Leave inference mode and let the model go."""
        if self._inference_mode is not None:
            self._inference_mode.__exit__(None, None, None)
        self._module = self._call = self._last = None
        self._graphed, self._replicas = [], []


def placed(torch: Any, host_input: Any, device: str, dtype: Any) -> Any:
    """A host input on the device, numbers in `dtype`; ids of tokens stay what they are."""
    tensor = torch.from_numpy(host_input)
    return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else tensor.dtype)


def _assert_dtype(module: Any, dtype: Any) -> None:
    tensors = list(module.named_parameters()) + list(module.named_buffers())
    wrong = [name for name, tensor in tensors if tensor.is_floating_point() and tensor.dtype != dtype]
    if wrong:
        raise PrecisionNotHeld("{} of {} tensors are not {}: {}".format(len(wrong), len(tensors), dtype, wrong[0]))
