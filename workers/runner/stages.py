# SPDX-License-Identifier: Apache-2.0
"""One run from request to result: the stages in order, and the one place where exceptions end."""

from array import array
from dataclasses import replace
from typing import Any, Callable, Dict, List, Optional, Tuple

from farm.contract.job import Protocol
from farm.contract.outcome import Failure, Outcome
from farm.contract.run import Mismatch, RunRequest, RunResult, SampleFile
from workers.runner import accuracy, environment, measure, usage
from workers.runner.control import Control
from workers.runner.failures import explain
from workers.workflows import reference
from workers.workflows.base import Context, Workflow, check_request, default_threads
from workers.workflows.cache import Cache
from workers.workflows.errors import PrecisionNotHeld, SettingNotHeld, WorkflowError
from workers.workflows.inputs import rotation
from workers.workflows.outputs import check_finite, outputs_sha256
from workers.workflows.registry import workflow_class


class Report:
    """What is known so far; a run that fails late still tells what it found."""

    def __init__(self) -> None:
        self.metrics: Dict[str, float] = {}
        self.samples: List[SampleFile] = []
        self.mismatch: List[Mismatch] = []
        self.effective: Dict[str, Any] = {}
        self.environment: Dict[str, Any] = {}
        self.context: Optional[Context] = None

    def result(self, control: Control, outcome: Outcome, failure: Optional[Failure]) -> RunResult:
        """The result as it stands."""
        return RunResult(
            run_id=control.run_id,
            outcome=outcome,
            failure=failure,
            stages=control.stages,
            metrics=self.metrics,
            samples=self.samples,
            artifacts=self.context.artifacts if self.context else [],
            mismatch=self.mismatch,
            effective=self.effective,
            environment=self.environment,
        )


def run_request(control_dir: str) -> None:
    """Do what `request.json` asks and write `result.json`, whatever happens in Python.

    Raises:
        OSError: the control directory cannot be written to.
    """
    control, report = Control(control_dir), Report()
    outcome: Outcome = Outcome.OK
    failure: Optional[Failure] = None
    try:
        _work(control, report)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the boundary: every failure becomes one outcome
        outcome, failure = explain(error, control.failed_stage or "start")
    control.write_result(report.result(control, outcome, failure))


def _work(control: Control, report: Report) -> None:
    with control.stage("start"):
        request = control.read_request()
        workflow = _open(control, report, request)
        workflow.setup()
    if request.mode == "prepare":
        workflow.prepare()
        report.environment = environment.capture()
    elif request.mode == "accuracy":
        _evaluate(control, report, workflow)
    else:
        _measure(control, report, workflow)
    with control.stage("finish"):
        workflow.close()


def _open(control: Control, report: Report, request: RunRequest) -> Workflow:
    if request.mode not in ("prepare", "measure", "accuracy"):
        known = "`prepare`, `measure` or `accuracy`"
        raise WorkflowError("there is no mode {!r}: {}".format(request.mode, known), None, "bad-request")
    if request.mode == "accuracy":
        # Each input is placed once: with `end_to_end` a workflow uses the same memory for all of them.
        protocol = replace(request.job.protocol, boundary="end_to_end")
        request = replace(request, job=replace(request.job, protocol=protocol))
    kind = workflow_class(request.job.workflow)
    check_request(request.job, request.device.kind)
    threads = request.job.protocol.threads or default_threads()
    cache = Cache(request.cache_dir, writable=request.mode == "prepare", clock=measure.now_ns)
    report.context = Context(
        request, control.directory, cache, threads, control.stage, control.stage_name, control.progress
    )
    return kind(report.context)


def _measure(control: Control, report: Report, workflow: Workflow) -> None:
    protocol = workflow.ctx.job.protocol
    clock = measure.clock_facts()
    report.metrics.update(timer_overhead_ns=clock.overhead_ns, timer_resolution_ns=clock.resolution_ns)
    report.effective["clock"] = measure.clock_source()
    with control.stage("load_engine"):
        _load(report, workflow)
        inputs, first = _inputs(report, workflow, protocol)
    body = _body(workflow, protocol)
    with control.stage("first_inference"):
        report.metrics["first_inference_ms"] = measure.once(lambda: body(inputs[0])) / 1e6
    with measure.quiet_collector():
        _timed(control, report, workflow, body, inputs)
        _device_times(control, report, workflow, inputs)
    report.metrics.update(usage.memory_metrics())
    report.metrics.update(workflow.metrics())
    with control.stage("outputs"):
        _compare(report, workflow, first)


def _evaluate(control: Control, report: Report, workflow: Workflow) -> None:
    with control.stage("load_engine"):
        _load(report, workflow)
    report.metrics.clear()  # times of a run that warms nothing up would only be mistaken for measured ones
    with control.stage("accuracy"):
        found = accuracy.evaluate(workflow)
    report.metrics.update(found.metrics())
    report.effective.update(found.facts(), batch_size=workflow.ctx.batch_size)


def _load(report: Report, workflow: Workflow) -> None:
    workflow.find()
    report.metrics["load_ms"] = measure.once(workflow.load) / 1e6
    report.effective.update(workflow.effective())
    report.environment = environment.capture()
    _assert_effective(report.effective, workflow.ctx)
    report.metrics["engine_bytes"] = float(workflow.engine_bytes())
    build_s = workflow.build_s()
    if build_s is not None:
        report.metrics["build_s"] = build_s


def _assert_effective(effective: Dict[str, Any], ctx: Context) -> None:
    if effective["precision"] != ctx.job.precision:
        raise PrecisionNotHeld("{} was asked for and {} runs".format(ctx.job.precision, effective["precision"]))
    if effective["threads"] != ctx.threads:
        raise SettingNotHeld("{} threads were asked for and {} run".format(ctx.threads, effective["threads"]))


def _inputs(report: Report, workflow: Workflow, protocol: Protocol) -> Tuple[List[Any], Callable[[], Any]]:
    """The inputs that the loop takes in turn, and what places the first, which the reference was computed from."""
    facts = rotation(protocol.inputs, workflow.input_bytes(), workflow.cache_bytes())
    report.effective.update(facts, boundary=protocol.boundary, batch_size=workflow.ctx.batch_size)
    host = workflow.host_inputs(facts["input_count"])
    if protocol.boundary == "end_to_end":
        # Placed when it is needed: with copies, a workflow may place every input in the same memory.
        return host, lambda: workflow.to_device(host[0])
    placed = [workflow.to_device(item) for item in host]
    return placed, lambda: placed[0]


def _body(workflow: Workflow, protocol: Protocol) -> Callable[[Any], None]:
    """What one sample covers: the inference, and with `end_to_end` the way in and the way out."""
    infer, synchronize = workflow.infer, workflow.synchronize
    if protocol.boundary == "compute":

        def compute(placed: Any) -> None:
            infer(placed)
            synchronize()

        return compute
    if protocol.boundary != "end_to_end":
        raise WorkflowError("there is no boundary {!r}".format(protocol.boundary), None, "bad-request")

    def end_to_end(host: Any) -> None:
        infer(workflow.to_device(host))
        synchronize()
        workflow.outputs()

    return end_to_end


def _timed(
    control: Control, report: Report, workflow: Workflow, body: Callable[[Any], None], inputs: List[Any]
) -> None:
    protocol = workflow.ctx.job.protocol
    with control.stage("warm_up"):
        warm = measure.timed_loop(body, inputs, measure.warm_up_limits(protocol))
    with control.stage("measure"):
        before = usage.usage()
        timed = measure.timed_loop(body, inputs, measure.timed_limits(protocol))
        after = usage.usage()
    for name, samples in (("latency", timed.samples), ("warm_up", warm.samples)):
        report.samples.append(control.write_samples(name, array("q", samples)))
    report.metrics.update(usage.usage_metrics(before, after, timed.wall_ns))
    report.metrics["throughput_per_s"] = len(timed.samples) * workflow.ctx.batch_size / (timed.wall_ns / 1e9)
    report.effective.update(
        timed_iterations=len(timed.samples),
        timed_wall_ns=timed.wall_ns,
        timed_ended_by=timed.ended_by,
        warm_up_iterations=len(warm.samples),
        warm_up_wall_ns=warm.wall_ns,
        warm_up_ended_by=warm.ended_by,
        garbage_collector="frozen and disabled while timing",
    )


def _device_times(control: Control, report: Report, workflow: Workflow, inputs: List[Any]) -> None:
    """With `compute` only: inputs that are not on the device yet would be copied between the events."""
    timer = workflow.device_timer() if workflow.ctx.job.protocol.boundary == "compute" else None
    if timer is None:
        return
    with control.stage("device_times"):
        split = measure.device_loop(workflow.infer, workflow.synchronize, timer, inputs)
    for name, samples in (("device", split.device), ("enqueue", split.enqueue)):
        report.samples.append(control.write_samples(name, samples))


def _compare(report: Report, workflow: Workflow, first: Callable[[], Any]) -> None:
    workflow.infer(first())
    workflow.synchronize()
    outputs = workflow.outputs()
    digest = outputs_sha256(outputs)
    if digest is not None:
        report.effective["outputs_sha256"] = digest
    report.mismatch = workflow.compare(outputs)
    report.effective.update(workflow.ctx.reference)
    report.metrics.update(reference.metrics(report.mismatch))
    check_finite(outputs, report.mismatch)
