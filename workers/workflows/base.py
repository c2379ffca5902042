# SPDX-License-Identifier: Apache-2.0
"""What a workflow is, and what the runner hands to it."""

import importlib
import os
from typing import Any, Callable, ContextManager, Dict, List, Optional, Tuple

from farm.contract.canonical import digest
from farm.contract.catalogue import WORKFLOWS
from farm.contract.device import DeviceInfo
from farm.contract.fit import unfit
from farm.contract.job import JobSpec
from farm.contract.run import ArtifactFile, Mismatch, RunRequest
from workers.workflows.cache import Build, Cache, CachedFile
from workers.workflows.errors import MissingLibrary, Unsupported, WorkflowError
from workers.workflows.layers import LayerProfiler
from workers.workflows.pins import find_pinned


class Context:
    """One runner process as its workflow sees it.

    `stage(name)` is a context manager that marks a stage; `stage_name()` is the one that is open. `progress(fraction)`
    tells how far the open stage is. `threads` is the number of intra-op threads to use. `artifacts` grows with each
    cached file that was made or used. `reference` tells, once outputs were compared, what with.
    """

    def __init__(
        self,
        request: RunRequest,
        control_dir: str,
        cache: Cache,
        threads: int,
        stage: Callable[[str], ContextManager[None]],
        stage_name: Callable[[], str],
        progress: Callable[[float], None],
    ) -> None:
        self.request = request
        self.control_dir = control_dir
        self.cache = cache
        self.threads = threads
        self.stage = stage
        self.stage_name = stage_name
        self.progress = progress
        self.artifacts: List[ArtifactFile] = []
        self.reference: Dict[str, Any] = {}
        self._entries: Dict[Tuple[str, str], CachedFile] = {}

    @property
    def job(self) -> JobSpec:
        """The job that this process serves."""
        return self.request.job

    @property
    def preparing(self) -> bool:
        """True in `prepare` mode, False in `measure` mode."""
        return self.request.mode == "prepare"

    @property
    def taking_apart(self) -> bool:
        """True in mode `layers`: libraries that profile only what was opened for it are told so."""
        return self.request.mode == "layers"

    @property
    def rebuild_key(self) -> Dict[str, Any]:
        """What to add to an engine's cache key so that each of a sweep's `rebuilds` is really built; else nothing.

        The job is in it, so that the same sweep again, or on another device of the class, builds its own.
        """
        job = self.job
        if job.rebuild is None:
            return {}
        return {"rebuild": {"job": job.job_id, "generation": job.generation, "timing_cache": job.rebuild.timing_cache}}

    @property
    def batch_size(self) -> int:
        """The batch size to measure. Raises WorkflowError where the request has none."""
        if self.request.batch_size is None:
            raise WorkflowError("the request names no batch size, which mode `measure` needs", None, "bad-request")
        return self.request.batch_size

    def cached(
        self,
        kind: str,
        key: Dict[str, Any],
        name: str,
        build: Build,
        ready: Optional[Callable[[], Any]] = None,
        upstream_s: Optional[Callable[[], float]] = None,
    ) -> CachedFile:
        """`Cache.fetch`, once in this process for each key; the file is listed among the artifacts.

        Of a kind that the job pins, it is the pinned file for that key, and nothing is built. Raises PinRefused where
        there is none for it.
        """
        known = (kind, digest(key))
        if known not in self._entries:
            pinned = find_pinned(self.request.pinned, kind, key)
            entry = pinned or self.cache.fetch(kind, key, name, build, ready, upstream_s)
            self._entries[known] = entry
            self.artifacts.append(
                ArtifactFile(
                    kind,
                    entry.path,
                    entry.sha256,
                    entry.size_bytes,
                    entry.cached,
                    entry.build_s,
                    entry.manifest,
                    pinned is not None,
                )
            )
        return self._entries[known]


class DeviceTimer:
    """Two events on the stream that `infer` uses: the device's own time of one inference."""

    def start(self) -> None:
        """Put the first event on the stream."""
        raise NotImplementedError

    def stop(self) -> None:
        """Put the second event on the stream."""
        raise NotImplementedError

    def elapsed_ns(self) -> int:
        """Nanoseconds between the two, once the stream was waited for."""
        raise NotImplementedError


class Lane:
    """One of several requests in flight: a context or session run, with a stream and buffers of its own.

    All methods are called by one thread, the lane's own, but `close`. The inputs are those of `Workflow.host_inputs`.
    """

    def attach(self) -> None:
        """Make the calling thread this lane's: first of all calls, once."""

    def to_device(self, host_input: Any) -> Any:
        """Place one host input where `infer` takes it from."""
        raise NotImplementedError

    def infer(self, batch: Any) -> None:
        """Run the model once on an input that this lane placed; it may return before the work is done."""
        raise NotImplementedError

    def synchronize(self) -> None:
        """Wait for what this lane started, and for no other lane."""

    def outputs(self) -> List[Tuple[str, Any]]:
        """This lane's last outputs, as `Workflow.outputs`."""
        raise NotImplementedError

    def detach(self) -> None:
        """Undo `attach`; the last call of the lane's thread."""

    def close(self) -> None:
        """Free what is this lane's alone. Called by the thread that made the lane, once the lane's own has ended."""


class Workflow:
    """One way to run a model: the base of all workflows. It never times itself.

    The runner calls `setup` and then either `prepare`, or `find`, `load`, `host_inputs`, `to_device`, `infer`,
    `synchronize`, `outputs`, `compare` and `close`. Any method may raise a `WorkflowError`: it becomes the outcome.
    """

    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx

    def setup(self) -> None:
        """Refuse what cannot work, import what `load` needs, set threads: all that must not count as loading."""

    def prepare(self) -> None:
        """Make every file that `load` and the comparison need, each in the cache, each in its stage."""

    def find(self) -> None:
        """Find and verify the prepared files, so that `load` is loading and nothing else. Raises NotPrepared."""

    def load(self) -> None:
        """Make the model ready to run at `ctx.batch_size`."""
        raise NotImplementedError

    def host_inputs(self, count: int) -> List[Any]:
        """`count` distinct inputs in host memory; the first is the one that the reference was computed from."""
        from workers.workflows import inputs

        return inputs.measuring_inputs(self.ctx.job, self.ctx.batch_size, count)

    def input_bytes(self) -> int:
        """Size of one input in host memory; 0 where there is none."""
        from workers.workflows import inputs

        return inputs.input_bytes(self.ctx.job.model.input_shape, self.ctx.batch_size)

    def cache_bytes(self) -> Optional[int]:
        """Size of the device's last cache before its memory; None where it is not known. Asked after `load`."""
        from workers.workflows import inputs

        return inputs.last_level_cache_bytes()

    def to_device(self, host_input: Any) -> Any:
        """Place one host input where `infer` takes it from."""
        raise NotImplementedError

    def infer(self, batch: Any) -> None:
        """Run the model once on a placed input; it may return before the work is done."""
        raise NotImplementedError

    def queue(self, batch: Any) -> None:
        """As `infer`, behind what runs already, and without waiting for it where the library can; for `offline`."""
        self.infer(batch)

    def synchronize(self) -> None:
        """Wait until everything that `infer` and `queue` started is done."""

    def lanes(self, count: int) -> List[Lane]:
        """`count` lanes on what `load` made, for as many requests in flight, each used by a thread of its own.

        The protocol's `contexts` and `sessions` say what the lanes share; `unfit` has held them against the workflow.

        Raises:
            Unsupported: the workflow has no way to run several at once.
        """
        raise Unsupported(
            "{} has no way to keep several requests in flight".format(self.ctx.job.workflow),
            "docs/measuring.md (Scenarios) has the workflows that do.",
            "scenario-unsupported",
        )

    def threads_at_work(self) -> Optional[int]:
        """How many threads of this process compute at most at once, with as many lanes; None where none need to."""
        return None

    def layer_profiler(self) -> LayerProfiler:
        """What takes an inference apart, asked for after `load` in mode `layers`.

        Raises:
            Unsupported: the workflow has nothing that tells.
        """
        raise Unsupported(
            "{} cannot tell where in the model its time goes".format(self.ctx.job.workflow),
            "docs/profiling.md has the workflows that can.",
            "profile-unsupported",
        )

    def device_timer(self) -> Optional[DeviceTimer]:
        """Events on the device, asked for after `load`; None where the host's clock is the device's."""
        return None

    def outputs(self) -> List[Tuple[str, Any]]:
        """The last inference's outputs as (name, float array in host memory); empty where there are none."""
        raise NotImplementedError

    def effective(self) -> Dict[str, Any]:
        """What really runs, read back after `load`: at least `precision`, `threads`, `provider` and `device`."""
        raise NotImplementedError

    def ran(self) -> Dict[str, Any]:
        """What is known only once it has run, for `effective`: whether CUDA graphs were launched. Asked at the end."""
        return {}

    def engine_bytes(self) -> int:
        """Size of the file that was loaded to run."""
        raise NotImplementedError

    def metrics(self) -> Dict[str, float]:
        """What only the workflow can measure of itself, after the timed stage, by names of the metric table."""
        return {}

    def build_s(self) -> Optional[float]:
        """What export, calibration and build of the loaded file took when it was made; None where it has none."""
        return None

    def compare(self, outputs: List[Tuple[str, Any]]) -> List[Mismatch]:
        """How far the outputs for the first host input are from the reference; empty where there is no reference."""
        return []

    def close(self) -> None:
        """Free what `load` took."""


def require(name: str) -> Any:
    """Import a library that the workflow cannot do without.

    Raises:
        MissingLibrary: it is not installed in this interpreter.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingLibrary(
            "this stack has no {}".format(error.name or name),
            "Install it into the stack's interpreter, or give the job to a stack that has it (`farm devices`).",
        ) from error


#: Distributions that bring each module, where the names differ. All that are installed count.
_DISTRIBUTIONS = {
    "modelopt": ("nvidia-modelopt",),
    "PIL": ("pillow",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-training"),
    "pytorch_quantization": ("pytorch-quantization",),
    "tensorflow": ("tensorflow", "tensorflow-cpu"),
    "tensorrt": ("tensorrt", "tensorrt-cu11", "tensorrt-cu12", "tensorrt-cu13"),
}


def versions(*names: str) -> Dict[str, str]:
    """Versions of libraries for a cache key, read from their metadata, so that nothing is imported for a look-up.

    A library without metadata (a vendor's copy outside of any distribution) is imported for its `__version__`.
    """
    from importlib import metadata

    found = {}
    for name in names:
        parts = []
        for distribution in _DISTRIBUTIONS.get(name, (name,)):
            try:
                parts.append("{} {}".format(distribution, metadata.version(distribution)))
            except metadata.PackageNotFoundError:
                continue
        found[name] = ", ".join(parts) or str(getattr(require(name), "__version__", "unknown"))
    return found


#: What a GPU's compiled code is tied to, beside the device's class and the versions of what compiled it.
PLATFORM_FACTS = ("compute_capability", "driver_version", "memory_bytes")


def platform_key(device: DeviceInfo, *libraries: str) -> Dict[str, Any]:
    """The part of a cache key that says where compiled code runs, and not what it is."""
    facts = {name: device.facts.get(name) for name in PLATFORM_FACTS}
    return dict(facts, versions=versions(*libraries), device_class=device.device_class)


def check_request(job: JobSpec, kind: str) -> None:
    """Refuse options, precisions, calibration methods and scenarios that it does not have on a kind of device.

    Raises:
        Unsupported: naming what is allowed.
    """
    info = WORKFLOWS[job.workflow]
    if job.precision not in info.precisions_on(kind):
        raise Unsupported(
            "{} does not run {} on a {}".format(job.workflow, job.precision, kind),
            "It runs: {}.".format(", ".join(info.precisions_on(kind))),
            "precision-unsupported",
        )
    if job.precision == "int8" and job.calibration and job.calibration.method not in info.calibration_methods:
        raise Unsupported(
            "{} has no calibration method {!r}".format(job.workflow, job.calibration.method),
            "It has: {}.".format(", ".join(info.calibration_methods)),
            "calibration-unsupported",
        )
    unknown = sorted(set(job.options) - set(info.options))
    if unknown:
        raise Unsupported(
            "{} has no option {}".format(job.workflow, ", ".join(repr(u) for u in unknown)),
            "It has: {}.".format(", ".join(sorted(info.options)) or "none"),
            "unknown-option",
        )
    found = unfit(info, kind, job.options, job.protocol)
    if found is not None:
        raise Unsupported(found.message, found.hint, found.reference)


def default_threads() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
