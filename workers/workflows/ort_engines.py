# SPDX-License-Identifier: Apache-2.0
"""What ONNX Runtime's TensorRT provider built, as one file for each batch: made in prepare, unpacked to be measured.

The provider keeps engines, their profiles and its timing cache in a directory, and builds again, without a word, what
it does not find there. So the directory is packed after a first run, unpacked for the process that measures, and held
against what was packed once the session is open.
"""

import functools
import os
import shutil
import tempfile
from typing import Any, Callable, Dict, List, Optional

from farm.contract.archive import pack
from farm.contract.canonical import sha256_file, short_digest
from workers.workflows import archive, inputs, onnx_session, ort_placement, ort_providers, ort_table
from workers.workflows.base import Context, platform_key, require
from workers.workflows.build_failures import BuildFailures
from workers.workflows.cache import CachedFile
from workers.workflows.errors import BuildOutOfMemory, NotPrepared, WorkflowError, is_out_of_memory
from workers.workflows.ort_options import TrtPlan, cuda_options, trt_options

RECIPE = 1
_TIMING = ".timing"
#: How TensorRT words that memory is used up; the provider then says only that it could not build.
_OUT_OF_MEMORY = ("OutOfMemory", "out of memory", "CUDA failure 2:", "Requested amount of GPU memory")
#: How the provider refuses a profile where it has split the model: only inputs of the model can be given one.
_SPLIT = "associated shape profiles"


class Engines:
    """The engines of one job. `file` gives the ONNX file that runs, `table` its calibration table or None."""

    def __init__(
        self,
        ctx: Context,
        tensorrt: str,
        facts: Callable[[], Dict[str, Any]],
        file: Callable[[], CachedFile],
        table: Callable[[], Optional[CachedFile]],
    ) -> None:
        self._ctx, self._tensorrt = ctx, tensorrt
        self._facts, self._file, self._table = facts, file, table
        self._failures = BuildFailures(ctx, self.batches, self._key)
        self.level: Optional[int] = ctx.job.options.get("optimization_level")
        self.allow_fp16 = bool(ctx.job.options.get("allow_fp16", False))

    def batches(self) -> List[int]:
        """One batch for each engine, in the ladder's order; a file with a fixed batch has one."""
        fixed = self._facts()["input_shape"][0]
        return [size for size in self._ctx.job.batches.sizes if fixed in (None, size)]

    def build_all(self) -> None:
        """Build every engine; a later one that cannot be built ends the building, not the job."""
        self._failures.build_all(self.engine)

    def engine(self, batch: int) -> CachedFile:
        """The archive for a batch; its facts say what is in it and where the nodes of the model ran.

        Raises:
            BuildOutOfMemory: memory ran out while it was built, now or in this job's prepare.
        """
        build = functools.partial(self._build, batch)
        return self._failures.fetch(batch, "ort_engine", "engine.zip", build, _ready, self._upstream_s)

    def plan(self, batch: int, directory: str, explicit: bool, dump: bool = False) -> TrtPlan:
        """What the provider is told for a batch. `explicit` names the profile; otherwise the first run makes it."""
        shape = (batch, *self._ctx.job.model.input_shape) if explicit else None
        table = ort_table.NAME if self._table() is not None else None
        name, precision = self._facts()["input"], self._ctx.job.precision
        return TrtPlan(precision, directory, name, shape, table, self.level, self.allow_fp16, dump)

    def unpack(self, entry: CachedFile, directory: str) -> None:
        """Put an archive into an empty directory, and hold it against the recorded digests."""
        shutil.rmtree(directory, ignore_errors=True)
        os.makedirs(directory)
        archive.unpack(entry.path, directory)
        assert_nothing_new(directory, entry.facts["files"])

    def _key(self, batch: int) -> Dict[str, Any]:
        job, table = self._ctx.job, self._table()
        return {
            "onnx": self._file().sha256,
            "precision": job.precision,
            "profile": [batch, *job.model.input_shape],
            "options": {"optimization_level": self.level, "allow_fp16": self.allow_fp16},
            "calibration": table.sha256 if table else None,
            "platform": self._platform(),
            "recipe": RECIPE,
            **self._ctx.rebuild_key,
        }

    def _platform(self) -> Dict[str, Any]:
        """What engines and timings are tied to."""
        return dict(platform_key(self._ctx.request.device, "onnxruntime"), tensorrt=self._tensorrt)

    def _upstream_s(self) -> float:
        table = self._table()
        return (table or self._file()).total_build_s

    def _build(self, batch: int, path: str) -> Dict[str, Any]:
        """Build in an empty directory, run once with a profile, pack the directory."""
        with tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as work:
            kept = os.path.join(work, "kept")
            os.mkdir(kept)
            table = self._table()
            if table is not None:
                shutil.copyfile(table.path, os.path.join(kept, ort_table.NAME))
            rebuild = self._ctx.job.rebuild
            cold = rebuild is not None and rebuild.timing_cache == "cold"
            before = 0 if cold else self._fetch_timings(kept)
            built = self._first_run(batch, kept, work)
            if not cold:
                self._keep_timings(kept)
            names = sorted(os.listdir(kept))
            if not any(name.endswith(".engine") for name in names):
                raise WorkflowError("ONNX Runtime built no engine: {}".format(names), None, "build-failed")
            pack(kept, names, path)
            return dict(built, files=digests(kept), engine_bytes=engine_bytes(kept), timing_cache_bytes_before=before)

    def _first_run(self, batch: int, kept: str, work: str) -> Dict[str, Any]:
        with archive.working_in(work), ort_providers.captured() as said:
            raised: Optional[Exception] = None
            explicit, profile = True, ""
            try:
                explicit, profile = self._run(batch, kept, work)
            except Exception as error:  # noqa: BLE001 - explained below, where what was written is known
                raised = error
        if raised is not None:
            raise explained(raised, said.text, batch) from raised
        return self._judged(batch, profile, explicit, ort_table.subgraphs(work), said.text)

    def _run(self, batch: int, kept: str, work: str) -> Any:
        """Open the session, which builds, and run once. Where no profile can be told beforehand, the run builds."""
        # A shape that is fixed needs no profile, and one for it would make the provider build at each start.
        session, explicit = None, None in self._facts()["input_shape"]
        try:
            session = self._open(self.plan(batch, kept, explicit, dump=True), os.path.join(work, "profile"))
        except WorkflowError as error:
            if _SPLIT not in error.message:
                raise
            explicit = False
            session = self._open(self.plan(batch, kept, False, dump=True), os.path.join(work, "profile"))
        bound = onnx_session.Bound(session, inputs.blank(self._ctx.job.model, batch), "cuda")
        session.run_with_iobinding(bound.binding)
        bound.binding.synchronize_outputs()
        with open(session.end_profiling(), encoding="utf-8") as stream:
            return explicit, stream.read()

    def _open(self, plan: TrtPlan, profile: str) -> Any:
        return onnx_session.open_session(self._file().path, self._ctx.threads, providers(plan), profile)

    def _judged(self, batch: int, profile: str, explicit: bool, graphs: List[Any], log: str) -> Dict[str, Any]:
        """Refuse what does not run as asked; return the facts about what does."""
        ort_table.assert_supported(log)
        if not graphs:
            raise WorkflowError("the provider left no description of what it gave to TensorRT", None, "build-failed")
        inside = sum(node.op_type != "Constant" for graph in graphs for node in graph.node)
        found = ort_placement.placement(profile, ort_providers.TENSORRT, inside)
        table, used = self._table(), None
        if table is not None:
            used = ort_table.assert_used(ort_table.coverage(graphs, set(ort_table.read(table.path))), log)
        self._keep_profile(batch, profile)
        return {"placement": found, "explicit_profile": explicit, "table": used}

    def _keep_profile(self, batch: int, profile: str) -> None:
        def write(path: str) -> Dict[str, Any]:
            with open(path, "w", encoding="utf-8") as stream:
                stream.write(profile)
            return {}

        self._ctx.cached("ort_profile", self._key(batch), "profile.json", write)

    def _timings(self) -> str:
        return os.path.join(self._ctx.cache.root, "timing", "ort-" + short_digest(self._platform(), 24))

    def _fetch_timings(self, kept: str) -> int:
        """Give the provider the timings of earlier builds for this kind of device; return their size."""
        before, size = self._timings(), 0
        for name in os.listdir(before) if os.path.isdir(before) else ():
            shutil.copyfile(os.path.join(before, name), os.path.join(kept, name))
            size += os.path.getsize(os.path.join(kept, name))
        return size

    def _keep_timings(self, kept: str) -> None:
        """Take the timing cache out of the directory: it outlives this engine, and another worker may read it."""
        directory = self._timings()
        os.makedirs(directory, exist_ok=True)
        for name in os.listdir(kept):
            if name.endswith(_TIMING):
                with tempfile.NamedTemporaryFile(dir=os.path.dirname(directory), delete=False) as stream:
                    with open(os.path.join(kept, name), "rb") as source:
                        shutil.copyfileobj(source, stream)
                os.replace(stream.name, os.path.join(directory, name))


def _ready() -> None:
    """Import what reads the provider's dumps, which is no part of building."""
    require("onnx")


def providers(plan: TrtPlan) -> onnx_session.Providers:
    """TensorRT first, CUDA for what TensorRT does not take."""
    import onnxruntime as ort

    cuda = cuda_options(ort.__version__, plan.precision)
    return [(ort_providers.TENSORRT, trt_options(plan)), (ort_providers.CUDA, cuda)]


def digests(directory: str) -> Dict[str, str]:
    """The sha256 of every file that decides what runs. Timings do not: they are read by builds alone."""
    names = [name for name in sorted(os.listdir(directory)) if not name.endswith(_TIMING)]
    return {name: sha256_file(os.path.join(directory, name)) for name in names}


def engine_bytes(directory: str) -> int:
    """Size of the engines."""
    names = [name for name in os.listdir(directory) if name.endswith(".engine")]
    return sum(os.path.getsize(os.path.join(directory, name)) for name in names)


def assert_nothing_new(directory: str, recorded: Dict[str, str]) -> None:
    """Raise NotPrepared where a directory is not as it was packed: an engine was built anew, or changed."""
    found = digests(directory)
    if found == recorded:
        return
    changed = sorted(name for name in set(found) | set(recorded) if found.get(name) != recorded.get(name))
    raise NotPrepared(
        "ONNX Runtime did not load the prepared engine, and built one: {}".format(", ".join(changed)),
        "Something that engines depend on changed since it was prepared (ONNX Runtime, TensorRT, driver, GPU): run the "
        "job again.",
    )


def explained(error: Exception, log: str, batch: int) -> Exception:
    """What a build raised, in the farm's terms: out of memory shows in what TensorRT wrote."""
    if is_out_of_memory(error) or any(words in log or words in str(error) for words in _OUT_OF_MEMORY):
        return BuildOutOfMemory(
            "memory ran out while ONNX Runtime built or first ran the engine for batch {}: {}".format(batch, error),
            "Use a smaller batch, or a device with more memory.",
        )
    return error
