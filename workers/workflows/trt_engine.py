# SPDX-License-Identifier: Apache-2.0
"""TensorRT engines in the cache: built in prepare, by all that they depend on, and read only as they were recorded."""

import functools
import os
import sys
import tempfile
from typing import Any, Dict, List, Optional, Tuple

from farm.contract.canonical import short_digest
from workers.workflows import datasets
from workers.workflows.base import PLATFORM_FACTS, Context, platform_key, require
from workers.workflows.build_failures import BuildFailures
from workers.workflows.cache import CachedFile
from workers.workflows.errors import BuildOutOfMemory, Unsupported, WorkflowError, is_out_of_memory
from workers.workflows.inputs import calibration_batches
from workers.workflows.keys import Difference, described, differing, nearest
from workers.workflows.trt_calibration import check_format, check_table, make_calibrator
from workers.workflows.trt_compat import Log, Network, Plan, check, check_implicit_int8, features
from workers.workflows.trt_graph import strongly_typed
from workers.workflows.trt_memory import Memory, open_memory

RECIPE = 1
#: The fields of an engine's key that say where it runs, and not what it is.
_PLATFORM = (*PLATFORM_FACTS, "versions", "device_class")


class Engines:
    """The engines of one job, one for each batch or one for the ladder; `source` gives the ONNX file."""

    def __init__(self, ctx: Context, source: Any) -> None:
        self._ctx, self._source = ctx, source
        job = ctx.job
        self.level: Optional[int] = job.options.get("optimization_level")
        self.ladder = job.options.get("profile", "batch") == "ladder"
        self.allow_fp16 = bool(job.options.get("allow_fp16", False))
        self._failures = BuildFailures(ctx, self.batches, self._key)
        self._memory: Optional[Memory] = None
        self._network: Any = None
        self._log: Any = None

    def check(self, trt: Any) -> None:
        """Refuse options and versions that do not go together."""
        if self.level is not None and not 0 <= self.level <= 5:
            raise Unsupported("optimization_level is 0 to 5, not {}".format(self.level), None, "unknown-option")
        check(trt, self.level)
        self.strong(trt)

    def strong(self, trt: Any) -> bool:
        """Whether the networks are strongly typed. Raises Unsupported where that cannot be."""
        return strongly_typed(self._ctx.job, features(trt))

    def profile(self, batch: int) -> Tuple[int, int, int]:
        """The smallest, best and largest batch of the engine that runs `batch`."""
        sizes = self._ctx.job.batches.sizes
        return (min(sizes), max(sizes), max(sizes)) if self.ladder else (batch, batch, batch)

    def profiles(self) -> int:
        """How often an engine has its profile: for K contexts at once K times, where TensorRT shares none."""
        contexts = self._ctx.job.protocol.in_flight
        return 1 if contexts == 1 or features(require("tensorrt"))["shared_profiles"] else contexts

    def batches(self) -> List[int]:
        """One batch for each engine to build, in the ladder's order; a file with a fixed batch has one."""
        fixed = self._source.onnx().facts["input_shape"][0]
        sizes = [size for size in self._ctx.job.batches.sizes if fixed in (None, size)]
        return sizes[:1] if self.ladder else sizes

    def needs_calibration(self) -> bool:
        """int8 of a graph without Q/DQ nodes."""
        return self._ctx.job.precision == "int8" and not self._source.onnx().facts["quantize"]

    def calibration(self) -> CachedFile:
        """TensorRT's calibration table."""
        key = self._calibration_key()
        return self._ctx.cached("trt_calibration", key, "calibration.cache", self._calibrate, self._ready)

    def engine(self, batch: int) -> CachedFile:
        """The engine for a batch.

        Raises:
            BuildOutOfMemory: memory ran out while it was built, now or in this job's prepare.
        """
        build = functools.partial(self._build, batch)
        return self._failures.fetch(batch, "engine", "model.engine", build, self._ready, self._upstream_s)

    def build_all(self) -> None:
        """Build every engine; a later one that cannot be built ends the building, not the job."""
        self._failures.build_all(self.engine)

    def close(self) -> None:
        """Give the memory back."""
        self._network = None
        if self._memory is not None:
            self._memory.close()
            self._memory = None

    def _key(self, batch: int) -> Dict[str, Any]:
        onnx = self._source.onnx()
        key = dict(
            self._platform(),
            onnx=onnx.sha256,
            precision=self._ctx.job.precision,
            profile=list(self.profile(batch)),
            input_shape=list(self._ctx.job.model.input_shape),
            options=self._options(),
            recipe=RECIPE,
            **self._ctx.rebuild_key,
        )
        if self.profiles() > 1:
            key["profiles"] = self.profiles()
        return dict(key, calibration=self.calibration().sha256) if self.needs_calibration() else key

    def _options(self) -> Dict[str, Any]:
        """What the builder is told. Whether a TensorRT has no other than strong typing goes without saying."""
        told = {"optimization_level": self.level, "allow_fp16": self.allow_fp16}
        return dict(told, typing="strong") if self._ctx.job.options.get("typing") == "strong" else told

    def _platform(self) -> Dict[str, Any]:
        """What an engine and a timing cache are tied to."""
        return platform_key(self._ctx.request.device, "tensorrt")

    def _calibration_key(self) -> Dict[str, Any]:
        job, calibration = self._ctx.job, _calibration(self._ctx)
        return {
            "onnx": self._source.onnx().sha256,
            "platform": self._platform(),
            "method": calibration.method,
            "samples": calibration.samples,
            "batch": calibration.batch,
            "input_shape": list(job.model.input_shape),
            "data": datasets.identity(job, "train"),
            "recipe": RECIPE,
        }

    def _ready(self) -> None:
        """Import TensorRT, make a context and parse the file: none of it is build time."""
        if self._network is not None:
            return
        trt = require("tensorrt")
        self.check(trt)
        if self.needs_calibration():
            check_implicit_int8(trt, _calibration(self._ctx).method, self.strong(trt))
        self._memory = self._memory or open_memory()
        self._log = Log(trt)
        self._network = Network(trt, self._source.onnx().path, self._log, self.strong(trt))

    def _upstream_s(self) -> float:
        total = self._source.onnx().total_build_s
        return total + (self.calibration().total_build_s if self.needs_calibration() else 0.0)

    def _calibrate(self, path: str) -> Dict[str, Any]:
        """Let TensorRT calibrate in a build whose engine is thrown away, as cheap a one as this version can make."""
        trt, calibration = require("tensorrt"), _calibration(self._ctx)
        data = calibration_batches(self._ctx.job, calibration, calibration.batch)
        found = make_calibrator(trt, calibration.method, calibration.batch, None, data, self._memory)
        batch = calibration.batch
        level = 0 if features(trt)["optimization_level"] else None
        self._run_build(Plan("int8", self._ctx.job.model.input_shape, (batch, batch, batch), level), found)
        table = check_table(found, asked_allowed=True)
        check_format(table, trt.__version__)
        with open(path, "wb") as stream:
            stream.write(table)
        return {"method": calibration.method, "batches": found.asked - 1}

    def _build(self, batch: int, path: str) -> Dict[str, Any]:
        job, calibrator = self._ctx.job, None
        if self.needs_calibration():
            calibration = _calibration(self._ctx)
            with open(self.calibration().path, "rb") as stream:
                table = stream.read()
            check_format(table, require("tensorrt").__version__)
            calibrator = make_calibrator(
                require("tensorrt"), calibration.method, calibration.batch, table, iter(()), None
            )
        instead = self._instead_of(batch)
        strong = self.strong(require("tensorrt"))
        shape, profiles = job.model.input_shape, self.profiles()
        plan = Plan(job.precision, shape, self.profile(batch), self.level, self.allow_fp16, strong, profiles)
        rebuild = job.rebuild
        built, before = self._run_build(plan, calibrator, cold=rebuild is not None and rebuild.timing_cache == "cold")
        if calibrator is not None:
            check_table(calibrator, asked_allowed=False)
        with open(path, "wb") as stream:
            stream.write(built.engine)
        facts = {"flags": built.flags, "profile": list(plan.profile), "timing_cache_bytes_before": before}
        return dict(facts, instead_of=instead)

    def _instead_of(self, batch: int) -> Optional[str]:
        """Why an engine of the cache for this very model is not used, where only the platform has changed."""
        parts = stale(self._key(batch), self._ctx.cache.keys("engine"))
        if parts is None:
            return None
        words = "an engine in the cache is for another platform and is not used: {}".format(described(parts))
        sys.stderr.write(words + "; building anew\n")
        return words

    def _run_build(self, plan: Plan, calibrator: Any, cold: bool = False) -> Tuple[Any, int]:
        """Build with the timing cache of this kind of device, and keep what it has grown to; `cold`: with none."""
        path = os.path.join(self._ctx.cache.root, "timing", short_digest(self._platform(), 24) + ".cache")
        known = b"" if cold else _read_if_there(path)
        try:
            built = self._network.build(plan, known, calibrator)
        except Exception as error:
            if isinstance(error, WorkflowError) or not is_out_of_memory(error):
                raise
            raise BuildOutOfMemory(
                "memory ran out while TensorRT built the engine for batch {}: {}".format(plan.profile[2], error),
                "Use a smaller batch, or a device with more memory.",
            ) from error
        if not cold:
            _write(path, built.timing_cache)
        return built, len(known)


def stale(wanted: Dict[str, Any], known: List[Dict[str, Any]]) -> Optional[List[Difference]]:
    """How the nearest engine differs that was built for the same thing on another platform; None where none was. Pure.

    Such an engine is what somebody expects to find again after an update of TensorRT or of the driver.
    """
    same = [key for key in known if all(part[0].split(".")[0] in _PLATFORM for part in differing(wanted, key))]
    return nearest(wanted, same)


def _calibration(ctx: Context) -> Any:
    if ctx.job.calibration is None:
        raise WorkflowError("the job says nothing about calibration, which int8 needs", None, "bad-request")
    return ctx.job.calibration


def _read_if_there(path: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except OSError:
        return b""


def _write(path: str, content: bytes) -> None:
    """Write by rename: another worker of this host may read or write the same timing cache."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=os.path.dirname(path), delete=False) as stream:
        stream.write(content)
    os.replace(stream.name, path)
