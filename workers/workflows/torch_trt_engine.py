# SPDX-License-Identifier: Apache-2.0
"""Models compiled by Torch-TensorRT in the cache: by all that they depend on, read only as they were recorded."""

import functools
from typing import Any, Dict, Optional

from workers.workflows import datasets
from workers.workflows.base import Context, platform_key
from workers.workflows.build_failures import BuildFailures
from workers.workflows.cache import CachedFile
from workers.workflows.errors import WorkflowError
from workers.workflows.inputs import calibration_batches
from workers.workflows.torch_trt_build import build
from workers.workflows.torch_trt_calibrator import make_calibrator
from workers.workflows.torch_trt_compat import Features, Settings, check, features, import_torch_tensorrt, settings
from workers.workflows.trt_calibration import check_table

RECIPE = 1
OPTIONS = ("optimization_level", "min_block_size", "require_full_compilation")


class CompiledModels:
    """The compiled models of one job, one for each batch. `model` is its `TorchModel`."""

    def __init__(self, ctx: Context, model: Any) -> None:
        self._ctx, self._model = ctx, model
        self.frontend: str = ctx.job.options.get("frontend", "dynamo")
        self.options = {name: ctx.job.options.get(name) for name in OPTIONS}
        # False is what leaving it out means, and must not ask an old version for it.
        self.options["require_full_compilation"] = self.options["require_full_compilation"] or None
        self._torch: Any = None
        self._device: Any = None
        self._library: Any = None
        self._able: Optional[Features] = None
        self._failures = BuildFailures(ctx, lambda: list(ctx.job.batches.sizes), self._key)

    @property
    def method(self) -> Optional[str]:
        """The calibration method, None where the job says nothing of calibration."""
        return self._ctx.job.calibration.method if self._ctx.job.calibration is not None else None

    @property
    def version(self) -> Optional[str]:
        """Torch-TensorRT's, after `open`."""
        return self._able.version if self._able is not None else None

    def open(self, torch: Any, device: Any) -> None:
        """Import Torch-TensorRT, which also makes its engines loadable, and refuse what it cannot do."""
        self._torch, self._device, self._library = torch, device, import_torch_tensorrt()
        self._able = features(self._library)
        check(self._able, self.frontend, self._ctx.job.precision, self.method, self.options)

    def settings(self) -> Settings:
        """How this job is compiled, after `open`."""
        if self._able is None:
            raise WorkflowError("Torch-TensorRT was not imported")
        return settings(self._able, self.frontend, self._ctx.job.precision, self.options)

    def calibration(self) -> CachedFile:
        """TensorRT's calibration table."""
        key = self._calibration_key()
        return self._ctx.cached("trt_calibration", key, "calibration.cache", self._calibrate, self._ready)

    def compiled(self, batch: int) -> CachedFile:
        """The compiled model for a batch. Raises what kept prepare from building it."""
        build = functools.partial(self._build, batch)
        return self._failures.fetch(batch, "torch_tensorrt", "model.ts", build, self._ready, self._upstream_s)

    def build_all(self) -> None:
        """Compile for every batch; a later one that cannot be compiled ends the building, not the job."""
        self._failures.build_all(self.compiled)

    def _needs_calibration(self) -> bool:
        return self._ctx.job.precision == "int8"

    def _key(self, batch: int) -> Dict[str, Any]:
        key = dict(
            self._platform(),
            model=self._model.key(),
            weights=self._model.weights().sha256,
            precision=self._ctx.job.precision,
            batch=batch,
            settings=self.settings().facts(),
            recipe=RECIPE,
        )
        return dict(key, calibration=self.calibration().sha256) if self._needs_calibration() else key

    def _platform(self) -> Dict[str, Any]:
        """What an engine is tied to."""
        return platform_key(self._ctx.request.device, "torch", "torch_tensorrt", "tensorrt")

    def _calibration_key(self) -> Dict[str, Any]:
        job, calibration = self._ctx.job, self._calibration()
        return {
            "frontend": self.frontend,
            "weights": self._model.weights().sha256,
            "model": self._model.key(),
            "platform": self._platform(),
            "method": calibration.method,
            "samples": calibration.samples,
            "batch": calibration.batch,
            "data": datasets.identity(job, "train"),
            "settings": self.settings().facts(),
            "recipe": RECIPE,
        }

    def _calibration(self) -> Any:
        if self._ctx.job.calibration is None:
            raise WorkflowError("the job says nothing about calibration, which int8 needs", None, "bad-request")
        return self._ctx.job.calibration

    def _ready(self) -> None:
        """Load the model and wake the GPU, which is no part of building."""
        self._model.module()
        self._torch.zeros(1, device=self._device.name)
        self._device.synchronize()

    def _upstream_s(self) -> float:
        return self.calibration().total_build_s if self._needs_calibration() else 0.0

    def _calibrate(self, path: str) -> Dict[str, Any]:
        """Let TensorRT calibrate in a build whose engine is thrown away."""
        calibration = self._calibration()
        data = calibration_batches(self._ctx.job, calibration, calibration.batch)
        calibrator = make_calibrator(self._torch, self._library, calibration.method, None, data, self._device)
        self._compile(calibration.batch, calibrator)
        table = check_table(calibrator, asked_allowed=True)
        with open(path, "wb") as stream:
            stream.write(table)
        return {"method": calibration.method, "batches": calibrator.asked - 1}

    def _build(self, batch: int, path: str) -> Dict[str, Any]:
        calibrator = None
        if self._needs_calibration():
            with open(self.calibration().path, "rb") as stream:
                table = stream.read()
            method = self._calibration().method
            calibrator = make_calibrator(self._torch, self._library, method, table, iter(()), self._device)
        script, facts = self._compile(batch, calibrator)
        if calibrator is not None:
            check_table(calibrator, asked_allowed=False)
        self._torch.jit.save(script, path)
        return facts

    def _compile(self, batch: int, calibrator: Any) -> Any:
        shape = (batch, *self._ctx.job.model.input_shape)
        try:
            module, plan = self._model.module(), self.settings()
            tokens = self._ctx.job.model.sequence is not None
            return build(self._torch, self._library, module, plan, shape, self._device.name, calibrator, tokens)
        except WorkflowError:
            if calibrator is not None and calibrator.error is not None:
                raise WorkflowError(
                    "calibration data could not be given to TensorRT: {}".format(calibrator.error),
                    None,
                    "calibration-failed",
                ) from calibrator.error
            raise
