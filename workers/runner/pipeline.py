# SPDX-License-Identifier: Apache-2.0
"""The study of a pipeline at one batch size: one stage after the other, all at once, and images at given rates."""

from array import array
from typing import Any, Dict, List, Optional, Tuple

from farm.contract.codec import to_json
from farm.contract.pipeline import ArrivalSpec, LoadPoint, OverlappedPass, PipelineResult, PipelineSpec
from workers.runner import measure, pipeline_analysis
from workers.runner.arrivals import Scheduled, Steady, schedule
from workers.runner.control import Control
from workers.runner.pipeline_line import Line, Trace
from workers.runner.pipeline_stages import Spans, Stages
from workers.workflows import jpeg_files
from workers.workflows.base import Context, Workflow
from workers.workflows.errors import WorkflowError
from workers.workflows.outputs import check_finite

_WARM_UP_LEAST, _WARM_UP_NS = 3, 500_000_000
_SERIAL_LEAST = 5
#: Completions that the window of an overlapped pass needs.
_WINDOW_LEAST = 6
_COPIES = {
    "gpu": "host memory to the GPU's and back, each waited for",
    "cpu": "no copy to another memory: handing the batch to the library and taking the scores, conversions included",
}


def spec_of(ctx: Context) -> PipelineSpec:
    """What the job asks for. Raises WorkflowError where it asks for no study."""
    if ctx.job.pipeline is None:
        raise WorkflowError("the job asks for no study of a pipeline", "Set `study: pipeline`.", "bad-request")
    return ctx.job.pipeline


class Study:
    """`run` makes the passes in order; what is found so far is in `result`, the serial pass's samples in `samples`."""

    def __init__(self, workflow: Workflow) -> None:
        self._workflow = workflow
        self._spec = spec_of(workflow.ctx)
        ctx = workflow.ctx
        files = jpeg_files.open_files(ctx, self._spec)
        copy = _COPIES.get(ctx.request.device.kind, _COPIES["gpu"])
        self._found: Dict[str, Any] = dict(
            batch_size=ctx.batch_size,
            images=len(files.paths),
            images_bytes=files.bytes,
            images_sha256=files.sha256,
            decoder=jpeg_files.decoder(),
            copy=copy,
        )
        self._stages = Stages(workflow, files)
        self.samples: Dict[str, "array[int]"] = {}

    @property
    def result(self) -> PipelineResult:
        """All that was found."""
        return PipelineResult(**self._found)

    def first(self) -> None:
        """The first inference, whose scores are looked at. Raises OutputsNotFinite, Unsupported."""
        check_finite([("scores", self._stages.first(self._batch(Spans(), 0)))], [])

    def warm_up(self) -> None:
        """Some batches through all stages."""
        begin, done = measure.now_ns(), 0
        while done < _WARM_UP_LEAST or measure.now_ns() - begin < _WARM_UP_NS:
            self._through(Spans(), done * self._stages.batch_size)
            done += 1

    def run(self) -> None:
        """The passes that are asked for."""
        spec = self._spec
        if spec.mode != "overlapped":
            self._serial()
        if spec.mode != "serial":
            self._overlapped()
        if spec.arrival is not None:
            self._found["loads"] = [
                self._load(spec.arrival, index, rate) for index, rate in enumerate(self._rates(spec.arrival))
            ]

    def _batch(self, spans: Spans, first: int) -> Any:
        size, stages = self._stages.batch_size, self._stages
        images = []
        for number in range(first, first + size):
            picture = spans.timed("decode", stages.decode, number)
            images.append(spans.timed("preprocess", stages.preprocess, picture))
        return spans.timed("collate", stages.collate, images)

    def _through(self, spans: Spans, first: int) -> None:
        scores = self._stages.device(spans, self._batch(spans, first))
        spans.timed("postprocess", self._stages.postprocess, scores, self._stages.batch_size)

    def _serial(self) -> None:
        spans, size = Spans(), self._stages.batch_size
        least_ns, batch_ns = int(self._spec.duration_s * 1e9), array("q")
        begin = end = measure.now_ns()
        while len(batch_ns) < _SERIAL_LEAST or end - begin < least_ns:
            batch_ns.append(measure.once(lambda: self._through(spans, len(batch_ns) * size)))
            end = measure.now_ns()
        images = len(batch_ns) * size
        self._found["serial"] = pipeline_analysis.serial_pass(spans.of, end - begin, images, batch_ns)
        self.samples["pipeline_batch"] = batch_ns
        for name, found in spans.of.items():
            self.samples["pipeline_" + name] = array("q", (last - first for first, last in found))

    def _overlapped(self) -> None:
        line = Line(self._stages, self._spec)
        start_ns, least_ns = measure.now_ns(), int(self._spec.duration_s * 1e9)
        windows: List[Tuple[int, int]] = []

        def enough() -> bool:
            if windows:
                return True
            now = measure.now_ns()
            if now - start_ns < least_ns:
                return False
            over = pipeline_analysis.window(line.trace.batch_done_ns, start_ns, now)
            if over is None:
                return False
            if sum(over[0] <= done <= over[1] for done in list(line.trace.batch_done_ns)) >= _WINDOW_LEAST:
                windows.append(over)
            return bool(windows)

        trace = line.run(Steady(enough))
        self._found["overlapped"] = self._judged(trace, windows[0])

    def _judged(self, trace: Trace, over: Tuple[int, int]) -> OverlappedPass:
        threads = self._spec.workers
        loads = pipeline_analysis.worker_loads(trace.spans.of, threads, over)
        queues = [
            pipeline_analysis.queue_fill(of.name, of.capacity, of.changes_ns, of.lengths, over) for of in trace.channels
        ]
        images = sum(count for done, count in zip(trace.batch_done_ns, trace.batch_counts) if over[0] < done <= over[1])
        serial = self._found.get("serial")
        return pipeline_analysis.overlapped_pass(loads, queues, images, over[1] - over[0], serial, threads)

    def _rates(self, arrival: ArrivalSpec) -> List[float]:
        capacity = self._capacity()
        found = [share * capacity for share in arrival.of_capacity] if capacity else []
        return sorted([*found, *arrival.per_s])

    def _capacity(self) -> Optional[float]:
        found: Optional[OverlappedPass] = self._found.get("overlapped")
        return found.per_s if found is not None else None

    def _load(self, arrival: ArrivalSpec, index: int, rate: float) -> LoadPoint:
        seed = "{}:{}".format(self._workflow.ctx.job.seed, index)
        offsets = schedule(rate, arrival.duration_s, arrival.process, seed)
        line = Line(self._stages, self._spec, int(arrival.max_wait_ms * 1e6))
        source = Scheduled(offsets, measure.now_ns(), measure.now_ns)
        # As long again as the arrivals took: a load of up to twice the capacity comes to its end.
        give_up_ns = source.due_ns[-1] + int(arrival.duration_s * 1e9)
        trace = line.run(source, give_up_ns)
        done = dict(zip(trace.numbers, trace.done_ns))
        self.samples["pipeline_load_{}".format(index)] = array("q", (done[n] - source.due_ns[n] for n in sorted(done)))
        return pipeline_analysis.load_point(source.due_ns, done, len(trace.batch_counts), rate, self._capacity())


def metrics(result: PipelineResult) -> Dict[str, float]:
    """The numbers of a study that are metrics."""
    found: Dict[str, float] = {}
    if result.serial is not None:
        shares = {stage.name: stage.share for stage in result.serial.stages}
        found["pipeline_serial_per_s"] = result.serial.per_s
        found["pipeline_infer_share"] = shares["infer"]
        found["pipeline_decode_share"] = shares["decode"]
    overlapped = result.overlapped
    if overlapped is not None:
        found["pipeline_overlapped_per_s"] = overlapped.per_s
        found["pipeline_busiest_share"] = overlapped.bottleneck.utilisation
        if overlapped.speed_up is not None and overlapped.bound_share is not None:
            found["pipeline_speed_up"] = overlapped.speed_up
            found["pipeline_bound_share"] = overlapped.bound_share
    return found


def make(control: Control, workflow: Workflow) -> Tuple[PipelineResult, List[Any]]:
    """The whole study in its stages; and the files of its samples.

    Raises:
        WorkflowError: an image, an output or the request cannot be used.
    """
    study = Study(workflow)
    with control.stage("first_inference"):
        study.first()
    with control.stage("warm_up"):
        study.warm_up()
    with measure.quiet_collector(), control.stage("pipeline"):
        study.run()
    return study.result, [control.write_samples(name, values) for name, values in study.samples.items()]


def facts(result: PipelineResult) -> Dict[str, Any]:
    """What the record keeps of it."""
    return {"pipeline": to_json(result), "garbage_collector": "frozen and disabled while timing"}
