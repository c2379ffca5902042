# SPDX-License-Identifier: Apache-2.0
"""One run from request to result: the stages in order, and the one place where exceptions end."""

import contextlib
from array import array
from dataclasses import replace
from typing import Any, Callable, Dict, List, Optional, Tuple

from farm.contract.job import Protocol
from farm.contract.layers import PROFILES
from farm.contract.outcome import Failure, Outcome
from farm.contract.run import Mismatch, RunRequest, RunResult, SampleFile
from workers.runner import accuracy, concurrent, environment, measure, pipeline, profiling, scenarios, usage
from workers.runner.control import Control
from workers.runner.failures import explain
from workers.runner.steady import SteadyState
from workers.workflows import jpeg_files, reference
from workers.workflows.base import Context, Workflow, check_request, default_threads
from workers.workflows.cache import Cache
from workers.workflows.errors import PrecisionNotHeld, SettingNotHeld, WorkflowError
from workers.workflows.inputs import rotation
from workers.workflows.outputs import check_finite, outputs_sha256
from workers.workflows.registry import workflow_class

_COLLECTOR = "frozen and disabled while timing"


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
        _images(control, workflow)
        workflow.prepare()
        report.environment = environment.capture()
    elif request.mode == "accuracy":
        _evaluate(control, report, workflow)
    elif request.mode == "pipeline":
        _pipeline(control, report, workflow)
    elif request.mode in PROFILES:
        _profile(control, report, workflow)
    else:
        _measure(control, report, workflow)
    with control.stage("finish"):
        workflow.close()


def _open(control: Control, report: Report, request: RunRequest) -> Workflow:
    if request.mode not in ("prepare", "measure", "accuracy", "pipeline", *PROFILES):
        known = "`prepare`, `measure`, `accuracy`, `pipeline`, `layers` or `timeline`"
        raise WorkflowError("there is no mode {!r}: {}".format(request.mode, known), None, "bad-request")
    if request.mode in ("accuracy", "pipeline"):
        # Each input is placed once: with `end_to_end` a workflow uses the same memory for all of them. One at a time,
        # with what was built for the sweep's number of streams.
        protocol = replace(request.job.protocol, boundary="end_to_end", scenario="single")
        request = replace(request, job=replace(request.job, protocol=protocol))
    if request.mode in PROFILES:
        request = replace(request, job=profiling.alone(request.job))
    kind = workflow_class(request.job.workflow)
    check_request(request.job, request.device.kind)
    if request.job.pipeline is not None:
        jpeg_files.check(request.job)
    threads = request.job.protocol.threads or default_threads()
    cache = Cache(request.cache_dir, writable=request.mode == "prepare", clock=measure.now_ns)
    report.context = Context(
        request, control.directory, cache, threads, control.stage, control.stage_name, control.progress
    )
    return kind(report.context)


def _measure(control: Control, report: Report, workflow: Workflow) -> None:
    protocol = workflow.ctx.job.protocol
    scenarios.check(protocol)
    clock = measure.clock_facts()
    report.metrics.update(timer_overhead_ns=clock.overhead_ns, timer_resolution_ns=clock.resolution_ns)
    report.effective["clock"] = measure.clock_source()
    if protocol.scenario == "streams":
        _streams(control, report, workflow)
        return
    with control.stage("load_engine"):
        _load(report, workflow)
        inputs, first = _inputs(report, workflow, protocol)
    report.effective["scenario"] = protocol.scenario
    body = _body(workflow, protocol)
    with control.stage("first_inference"):
        report.metrics["first_inference_ms"] = measure.once(lambda: body(inputs[0])) / 1e6
    with measure.quiet_collector():
        if protocol.scenario == "offline":
            _offline(control, report, workflow, body, inputs)
        else:
            _timed(control, report, workflow, body, inputs)
            _device_times(control, report, workflow, inputs)
            each_ns = _each_ns(report)
            _energy(control, report, workflow, lambda ns: concurrent.steady_load(body, inputs, ns, each_ns))
    _tell_memory(report, workflow)
    with control.stage("outputs"):
        workflow.infer(first())
        workflow.synchronize()
        _compare(report, workflow, workflow.outputs())


def _tell_memory(report: Report, workflow: Workflow) -> None:
    report.metrics.update(usage.memory_metrics())
    report.metrics.update(workflow.metrics())
    report.effective.update(workflow.ran())


def _each_ns(report: Report) -> float:
    """About what one inference took in the timed stage."""
    return float(report.effective["timed_wall_ns"] / max(report.effective["timed_iterations"], 1))


def _streams(control: Control, report: Report, workflow: Workflow) -> None:
    """`_measure` with several requests in flight."""
    protocol = workflow.ctx.job.protocol
    with contextlib.ExitStack() as kept:
        with control.stage("load_engine"):
            _load(report, workflow)
            host = _host_inputs(report, workflow, protocol)
            streams = kept.enter_context(contextlib.closing(scenarios.Streams(workflow, protocol)))
            report.effective.update(streams.place(host))
        with control.stage("first_inference"):
            report.metrics["first_inference_ms"] = streams.first() / 1e6
        with measure.quiet_collector():
            _streamed(control, report, workflow, streams)
        _tell_memory(report, workflow)
        with control.stage("outputs"):
            _compare(report, workflow, streams.outputs(host[0]))


def _streamed(control: Control, report: Report, workflow: Workflow, streams: scenarios.Streams) -> None:
    with control.stage("warm_up"):
        warm = streams.warm_up()
    with control.stage("measure"):
        timed = streams.timed()
    for found in (timed, warm):
        _take(control, report, found)
    report.effective["garbage_collector"] = _COLLECTOR
    if workflow.ctx.job.protocol.boundary == "compute" and workflow.device_timer() is not None:
        with control.stage("device_times"):
            split = streams.enqueue()
        _take(control, report, split)
    each_ns = _each_ns(report)
    _energy(control, report, workflow, lambda ns: streams.load(ns, each_ns))


def _offline(
    control: Control, report: Report, workflow: Workflow, body: Callable[[Any], None], inputs: List[Any]
) -> None:
    protocol = workflow.ctx.job.protocol
    steady = measure.warm_up_rule(protocol)
    with control.stage("warm_up"):
        warm = measure.timed_loop(body, inputs, measure.warm_up_limits(protocol), steady)
        each_ns = scenarios.queued_each_ns(workflow, protocol, inputs)
    with control.stage("measure"):
        timed = scenarios.offline(workflow, protocol, inputs, each_ns)
    _take(control, report, timed)
    report.samples.append(control.write_samples("warm_up", array("q", warm.samples)))
    report.effective.update(_warm_up_facts(warm, steady), garbage_collector=_COLLECTOR)

    def load(least_ns: int) -> concurrent.Load:
        return concurrent.queue_load(workflow.queue, workflow.synchronize, inputs, least_ns, each_ns)

    _energy(control, report, workflow, load)


def _energy(control: Control, report: Report, workflow: Workflow, load: Callable[[int], concurrent.Load]) -> None:
    """The energy pass, where the protocol has one: steady load of at least so long, nothing timed in it."""
    seconds = workflow.ctx.job.protocol.energy_s
    if seconds is None:
        return
    with control.stage("energy"):
        found = load(int(seconds * 1e9))
    report.effective.update(scenarios.energy_facts(found, workflow.ctx.batch_size))


def _take(control: Control, report: Report, found: scenarios.Measured) -> None:
    for name, samples in found.samples.items():
        report.samples.append(control.write_samples(name, samples))
    report.metrics.update(found.metrics)
    report.effective.update(found.effective)


def _profile(control: Control, report: Report, workflow: Workflow) -> None:
    """One inference at a time, under a profiler. What it takes is told by the profiler, and is no metric."""
    protocol = workflow.ctx.job.protocol
    with control.stage("load_engine"):
        _load(report, workflow)
        inputs, _ = _inputs(report, workflow, protocol)
    report.metrics.clear()
    body = _body(workflow, protocol)
    with control.stage("first_inference"):
        body(inputs[0])
    with control.stage("warm_up"):
        count = profiling.iterations(profiling.warm_up(body, inputs))
    with control.stage("profile"):
        profiling.run(control, workflow, body, inputs, count, report.effective)


def _evaluate(control: Control, report: Report, workflow: Workflow) -> None:
    with control.stage("load_engine"):
        _load(report, workflow)
    report.metrics.clear()  # times of a run that warms nothing up would only be mistaken for measured ones
    with control.stage("accuracy"):
        found = accuracy.evaluate(workflow)
    report.metrics.update(found.metrics())
    report.effective.update(found.facts(), batch_size=workflow.ctx.batch_size)


def _images(control: Control, workflow: Workflow) -> None:
    """Make, or look at, the images of a study of the pipeline."""
    spec = workflow.ctx.job.pipeline
    if spec is not None:
        with control.stage("images"):
            jpeg_files.prepare(workflow.ctx, spec)


def _pipeline(control: Control, report: Report, workflow: Workflow) -> None:
    with control.stage("load_engine"):
        _load(report, workflow)
    report.effective.update(batch_size=workflow.ctx.batch_size)
    found, samples = pipeline.make(control, workflow)
    report.samples += samples
    report.metrics.update(pipeline.metrics(found))
    report.effective.update(pipeline.facts(found))
    _tell_memory(report, workflow)


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
    host = _host_inputs(report, workflow, protocol)
    if protocol.boundary == "end_to_end":
        # Placed when it is needed: with copies, a workflow may place every input in the same memory.
        return host, lambda: workflow.to_device(host[0])
    placed = [workflow.to_device(item) for item in host]
    return placed, lambda: placed[0]


def _host_inputs(report: Report, workflow: Workflow, protocol: Protocol) -> List[Any]:
    facts = rotation(protocol.inputs, workflow.input_bytes(), workflow.cache_bytes())
    report.effective.update(facts, boundary=protocol.boundary, batch_size=workflow.ctx.batch_size)
    return workflow.host_inputs(facts["input_count"])


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
    steady, stop = measure.warm_up_rule(protocol), measure.stop_rule(protocol)
    with control.stage("warm_up"):
        warm = measure.timed_loop(body, inputs, measure.warm_up_limits(protocol), steady)
    with control.stage("measure"):
        before = usage.usage()
        timed = measure.timed_loop(body, inputs, measure.timed_limits(protocol), stop)
        after = usage.usage()
    for name, samples in (("latency", timed.samples), ("warm_up", warm.samples)):
        report.samples.append(control.write_samples(name, array("q", samples)))
    report.metrics.update(usage.usage_metrics(before, after, timed.wall_ns + timed.asking_ns))
    report.metrics["throughput_per_s"] = len(timed.samples) * workflow.ctx.batch_size / (timed.wall_ns / 1e9)
    report.effective.update(
        timed_iterations=len(timed.samples),
        timed_wall_ns=timed.wall_ns,
        timed_ended_by=timed.ended_by,
        garbage_collector=_COLLECTOR,
        **_warm_up_facts(warm, steady),
    )
    if stop is not None:
        report.effective["timed_asking_ns"] = timed.asking_ns


def _warm_up_facts(warm: measure.Series, steady: Optional[SteadyState]) -> Dict[str, Any]:
    facts = {
        "warm_up_iterations": len(warm.samples),
        "warm_up_wall_ns": warm.wall_ns,
        "warm_up_ended_by": warm.ended_by,
    }
    return dict(facts, **steady.facts()) if steady is not None else facts


def _device_times(control: Control, report: Report, workflow: Workflow, inputs: List[Any]) -> None:
    """With `compute` only: inputs that are not on the device yet would be copied between the events."""
    timer = workflow.device_timer() if workflow.ctx.job.protocol.boundary == "compute" else None
    if timer is None:
        return
    with control.stage("device_times"):
        split = measure.device_loop(workflow.infer, workflow.synchronize, timer, inputs)
    for name, samples in (("device", split.device), ("enqueue", split.enqueue)):
        report.samples.append(control.write_samples(name, samples))


def _compare(report: Report, workflow: Workflow, outputs: List[Tuple[str, Any]]) -> None:
    digest = outputs_sha256(outputs)
    if digest is not None:
        report.effective["outputs_sha256"] = digest
    report.mismatch = workflow.compare(outputs)
    report.effective.update(workflow.ctx.reference)
    report.metrics.update(reference.metrics(report.mismatch))
    check_finite(outputs, report.mismatch)
