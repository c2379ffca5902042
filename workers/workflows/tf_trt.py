# SPDX-License-Identifier: Apache-2.0
"""TF-TRT: TensorRT engines inside of a SavedModel. Converted in prepare, once for each batch; never while measuring."""

import functools
import os
import tempfile
from typing import Any, Dict, Iterator, Optional

from farm.contract.archive import files_below, pack
from farm.contract.job import Calibration
from workers.workflows import datasets, inputs
from workers.workflows.archive import unpack
from workers.workflows.base import Context, platform_key, require, versions
from workers.workflows.build_failures import BuildFailures
from workers.workflows.cache import CachedFile
from workers.workflows.errors import PrecisionNotHeld, Unsupported, WorkflowError
from workers.workflows.tensorflow import TensorFlow
from workers.workflows.tensorflow_graph import canonical, engines
from workers.workflows.tensorflow_setup import import_tensorflow, set_environment
from workers.workflows.tf_trt_build import check_modes, convert, settings
from workers.workflows.tf_trt_compat import dotted, import_converter
from workers.workflows.tf_trt_compat import versions as tensorrt_versions

RECIPE = 1
_PARTITION = ("engines", "operators_total", "operators_in_engines", "operators_in_tensorflow", "left_in_tensorflow")
_HELD = {"FP16": "fp16", "INT8": "int8"}


class TfTrt(TensorFlow):
    """The SavedModel of `tensorflow`, converted. A model without an engine fails: that would measure TensorFlow."""

    provider = "tf_trt"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self._settings = settings(ctx.job.precision, ctx.job.options)
        self._failures = BuildFailures(ctx, lambda: list(ctx.job.batches.sizes), self._key)
        self._converter: Any = None
        self._tensorrt = ""

    def _import(self) -> Any:
        """TensorFlow on the GPU, which preparing needs, too: TensorRT builds and times its kernels there."""
        self._tf = import_tensorflow(self.ctx, use_gpu=True)
        return self._tf

    def setup(self) -> None:
        """Refuse what cannot work, cheapest first: another device than a GPU, a TensorFlow without TF-TRT."""
        if not self._on_gpu:
            raise Unsupported(
                "TF-TRT runs on NVIDIA GPUs, not on a {}".format(self.ctx.request.device.kind),
                "Give the job to a GPU, or use `tensorflow` here.",
                "device-kind-unsupported",
            )
        set_environment(self.ctx.job.precision, use_gpu=True)
        # Before the GPU is looked for: a TensorFlow without TF-TRT may not find one either, and that is not the reason.
        self._converter = import_converter(require("tensorflow"))
        tf = self._import()
        self._tensorrt = dotted(tensorrt_versions(tf)[1])

    def prepare(self) -> None:
        """Make or take the SavedModel, convert it for each batch, make the references."""
        with self.ctx.stage("load_model"):
            self._source.model()
        with self.ctx.stage("build"):
            self._failures.build_all(self._converted)
        with self.ctx.stage("reference"):
            self._source.prepare_reference()

    def _file(self) -> CachedFile:
        return self._converted(self.ctx.batch_size)

    def _converted(self, batch: int) -> CachedFile:
        build = functools.partial(self._build, batch)
        return self._failures.fetch(batch, "tf_trt", "saved_model.zip", build, upstream_s=self._upstream_s)

    def _upstream_s(self) -> float:
        return self._source.model().total_build_s

    def _key(self, batch: int) -> Dict[str, Any]:
        key = dict(
            platform_key(self.ctx.request.device, "tensorflow"),
            tensorrt=self._tensorrt,
            source=self._source.key(),
            saved_model=self._source.model().sha256,
            precision=self.ctx.job.precision,
            batch=batch,
            settings=self._settings,
            recipe=RECIPE,
        )
        if self.ctx.job.precision != "int8":
            return key
        calibration = self._calibration()
        own = {"method": calibration.method, "samples": calibration.samples, "numpy": versions("numpy")}
        return dict(key, calibration=dict(own, data=datasets.identity(self.ctx.job, "train")))

    def _calibration(self) -> Calibration:
        if self.ctx.job.calibration is None:
            raise WorkflowError("the job says nothing about calibration, which int8 needs", None, "bad-request")
        return self.ctx.job.calibration

    def _build(self, batch: int, path: str) -> Dict[str, Any]:
        entry = self._source.model()

        def shown() -> Iterator[Any]:
            yield self._source.feed(inputs.measuring_inputs(self.ctx.job, batch, 1)[0])

        def data() -> Iterator[Any]:
            for found in inputs.calibration_batches(self.ctx.job, self._calibration(), batch):
                yield self._source.feed(found)

        with tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as work:
            given, made = os.path.join(work, "given"), os.path.join(work, "made")
            unpack(entry.path, given)
            facts = convert(self._tf, self._converter, given, made, self._settings, shown, data)
            pack(made, files_below(made), path)
        names = {name: entry.facts[name] for name in ("input", "outputs", "input_shape")}
        return dict(facts, **names, parameters=entry.facts.get("parameters"), tensorrt=self._tensorrt)

    def effective(self) -> Dict[str, Any]:
        """Precision from the engines' nodes in what was loaded, which must be those that were built."""
        facts = self._found().facts
        nodes = engines(self._functions)
        if sorted(canonical(node.name) for node in nodes) != facts["nodes_of_engines"]:
            raise PrecisionNotHeld("{} engines were built and {} were loaded".format(facts["engines"], len(nodes)))
        mode = self._settings["precision_mode"]
        check_modes([(node.name, node.precision) for node in nodes], mode)
        return dict(
            self._facts(),
            precision=_HELD.get(mode, "tf32" if self._uses_tf32() else "fp32"),
            tensorrt=facts["tensorrt"],
            conversion=facts["settings"],
            plan_bytes=facts["plan_bytes"],
            parameters=facts["parameters"],
            **self._calibration_facts(),
            **{name: facts[name] for name in _PARTITION},
        )

    def _calibration_facts(self) -> Dict[str, Any]:
        if self.ctx.job.precision != "int8":
            return {}
        size, calibration = self.ctx.batch_size, self._calibration()
        batches = -(-calibration.samples // size)
        return {"calibration_batch": size, "calibration_samples": batches * size}

    def metrics(self) -> Dict[str, float]:
        """Memory of TensorFlow's allocator, and the share of the graph's operators that TensorFlow runs."""
        return dict(super().metrics(), fallback_node_share=float(self._found().facts["fallback_node_share"]))

    def build_s(self) -> Optional[float]:
        """Making the SavedModel, calibration and build, when they were done."""
        return self._found().total_build_s
