# SPDX-License-Identifier: Apache-2.0
"""TensorFlow's own run-time on a SavedModel's serving signature: what TF-TRT is held against."""

import os
import shutil
from typing import Any, Dict, List, Optional, Tuple

from farm.contract.run import Mismatch
from workers.workflows import cuda_driver, inputs, tf32
from workers.workflows.archive import unpack
from workers.workflows.base import Context, Workflow
from workers.workflows.cache import CachedFile
from workers.workflows.errors import PrecisionNotHeld, ProviderFellBack
from workers.workflows.saved_models import Served, as_arrays, open_saved_model, source_of
from workers.workflows.tensorflow_graph import Functions, functions_of, product_types
from workers.workflows.tensorflow_setup import gpu_facts, import_tensorflow, thread_settings

_HELD = {"float32": "fp32", "float16": "fp16"}


class TensorFlow(Workflow):
    """The signature as a user calls it, on the CPU or a GPU."""

    provider = "tensorflow"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self._on_gpu = ctx.request.device.kind == "gpu"
        self._source = source_of(ctx, self._import)
        self._directory = os.path.join(ctx.control_dir, "saved_model")
        self._tf: Any = None
        self._served: Optional[Served] = None
        self._entry: Optional[CachedFile] = None
        self._functions: Functions = {}
        self._last: Dict[str, Any] = {}

    def _import(self) -> Any:
        """TensorFlow; preparing needs no GPU, and takes none away from what is measured."""
        self._tf = import_tensorflow(self.ctx, self._on_gpu and not self.ctx.preparing)
        return self._tf

    def setup(self) -> None:
        """Import TensorFlow, which takes seconds that are not the model's."""
        if not self.ctx.preparing:
            self._import()

    def prepare(self) -> None:
        """Make or take the SavedModel, and the reference outputs."""
        with self.ctx.stage("load_model"):
            self._source.model()
        with self.ctx.stage("export"):
            self._source.model(self.ctx.job.precision)
        with self.ctx.stage("reference"):
            self._source.prepare_reference()

    def find(self) -> None:
        """The archive that prepare kept, unpacked."""
        self._entry = self._file()
        unpack(self._entry.path, self._directory)

    def _file(self) -> CachedFile:
        return self._source.model(self.ctx.job.precision)

    def load(self) -> None:
        """Load the SavedModel and read back what its graph holds."""
        self._served = open_saved_model(self._tf, self._found(), self._directory)
        self._functions = functions_of(self._tf, self._served.function.graph.as_graph_def())
        self.synchronize()

    def host_inputs(self, count: int) -> List[Any]:
        """As every workflow's, in the layout of the model's input: turning them is no part of an inference."""
        return [self._source.feed(batch) for batch in super().host_inputs(count)]

    def to_device(self, host_input: Any) -> Any:
        """A tensor; on a GPU in its memory. Test images, and those of a pipeline, come as the farm makes them."""
        if self.ctx.request.mode in ("accuracy", "pipeline"):
            host_input = self._source.feed(host_input)
        return self._tf.constant(host_input)

    def infer(self, batch: Any) -> None:
        """Call the signature; on a CPU it is done when it returns, on a GPU it may only have begun."""
        self._last = self._served(batch)  # type: ignore[misc]

    def synchronize(self) -> None:
        """Wait for the GPU's stream: TensorFlow has one for all that computes."""
        if self._on_gpu:
            with self._tf.device("/GPU:0"):
                self._tf.raw_ops.SyncDevice()

    def outputs(self) -> List[Tuple[str, Any]]:
        """The last inference's outputs as float32, by name."""
        return as_arrays(self._last)

    def compare(self, outputs: List[Tuple[str, Any]]) -> List[Mismatch]:
        """Against TensorFlow fp32 on the CPU."""
        return self._source.compare(outputs)

    def effective(self) -> Dict[str, Any]:
        """Precision from the types of the graph's products and the switch for TF32, threads from TensorFlow."""
        types = product_types(self._functions)
        return dict(
            self._facts(),
            precision=self._held(types),
            product_types=types,
            parameters=self._found().facts.get("parameters"),
        )

    def _facts(self) -> Dict[str, Any]:
        threads = thread_settings(self._tf)
        facts = {
            "threads": threads["intra"],
            "inter_op_threads": threads["inter"],
            "provider": self.provider,
            "device": self._place(),
            "tensorflow": self._tf.__version__,
            "tf32": self._tf.config.experimental.tensor_float_32_execution_enabled(),
            "signature_input": self._found().facts["input"],
            "reference": self._source.reference_name,
        }
        if self._on_gpu:
            facts.update(gpu_facts(self._tf), tf32_held_by=tf32.assert_held(self.ctx.job.precision))
        return facts

    def _held(self, types: Dict[str, int]) -> str:
        """The precision behind the types of convolutions and matrix products. Raises PrecisionNotHeld."""
        if not types:
            raise PrecisionNotHeld("the SavedModel holds no convolution and no matrix product to tell a precision by")
        if len(types) > 1:
            raise PrecisionNotHeld("the SavedModel's products are of several types: {}".format(types))
        held = _HELD.get(next(iter(types)), "other")
        return "tf32" if held == "fp32" and self.ctx.job.precision == "tf32" and self._uses_tf32() else held

    def _uses_tf32(self) -> bool:
        return bool(self._on_gpu and self._tf.config.experimental.tensor_float_32_execution_enabled())

    def _place(self) -> str:
        """Where a tensor is put, as `GPU:0`. Raises ProviderFellBack where that is not the job's device."""
        place = str(self._tf.constant(0.0).device.rpartition("device:")[2])
        if place.startswith("GPU") != self._on_gpu:
            raise ProviderFellBack("TensorFlow computes on {}, and the job is for a {}".format(
                place, self.ctx.request.device.kind))  # fmt: skip
        return place

    def ran(self) -> Dict[str, Any]:
        """Where the outputs were. Raises ProviderFellBack where that is not the job's device."""
        places = sorted({tensor.device.rpartition("device:")[2] for tensor in self._last.values()})
        if any(place.startswith("GPU") != self._on_gpu for place in places):
            raise ProviderFellBack("TensorFlow's outputs are on {}".format(", ".join(places)))
        return {"outputs_on": places}

    def cache_bytes(self) -> Optional[int]:
        """Of the device that runs."""
        return cuda_driver.l2_cache_bytes() if self._on_gpu else inputs.last_level_cache_bytes()

    def metrics(self) -> Dict[str, float]:
        """The peak of TensorFlow's own allocator on a GPU, without the context and the libraries' work space."""
        if not self._on_gpu:
            return {}
        return {"gpu_allocator_peak_bytes": float(self._tf.config.experimental.get_memory_info("GPU:0")["peak"])}

    def engine_bytes(self) -> int:
        """Size of the archive that was loaded."""
        return self._found().size_bytes

    def _found(self) -> CachedFile:
        if self._entry is None:
            self._entry = self._file()
        return self._entry

    def close(self) -> None:
        """Let the model go, and its unpacked files."""
        self._served, self._last = None, {}
        shutil.rmtree(self._directory, ignore_errors=True)
