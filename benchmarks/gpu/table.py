# SPDX-License-Identifier: Apache-2.0
"""Print the Markdown tables of GPU records: `python benchmarks/gpu/table.py STORE...`."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from farm.canary import is_canary
from farm.contract.outcome import Outcome
from farm.contract.record import ACCURACY, LATENCY, Record
from farm.store import Store
from workers.workflows.trt_inspect import tactics_sha256

HEAD = tuple(
    """
    model|workflow|precision|batch|median ms|95 % interval|device ms|inputs/s|mismatch 1e-3 %|top-1 agreement|fallback
    |power W|memory MiB|build s|flags
    """.replace("\n", "").split("|")
)
ACCURACY_HEAD = (
    "model",
    "input",
    "workflow",
    "precision",
    "calibration",
    "top-1 %",
    "95 % interval",
    "images",
    "weights",
)
ENERGY_HEAD = tuple(
    """
    model|workflow|precision|batch|stage|energy per input mJ|integrated power mJ|power W|SM clock MHz|temperature C|
    throttled share|flags
    """.replace("\n", "").split("|")
)
SCENARIO_HEAD = (
    *("model", "workflow", "precision", "batch", "scenario", "inputs", "median ms", "inputs/s", "power W"),
    *("in lanes", "threads handing over", "flags"),
)
PAPER_HEAD = (
    *("model", "workflow", "precision", "batch", "mean ms", "median ms", "inputs/s"),
    *("mismatch 1e-3 %", "memory MiB", "flags"),
)
PROCESSES_HEAD = (
    *("model", "workflow", "precision", "batch", "processes", "median ms", "95 % interval between them"),
    *("each ms", "energy per input mJ", "SM clock MHz", "flags"),
)
CANARY_HEAD = ("canary", "workflow", "batch", "at (UTC)", "processes", "median ms", "each ms", "flags")
LADDER_HEAD = ("model", "workflow", "precision", "from", "largest ok", "ended by", "inputs/s there")
BUILD_HEAD = ("model", "workflow", "precision", "build", "build s", "median ms", "engine", "tactics", "outputs")


def main() -> None:
    """Print provenance, the rows that ran, the accuracies, the rebuilds, and what did not run."""
    stores = [Store(Path(path)) for path in sys.argv[1:]]
    pairs = [(r, store) for store in stores for r in store.records.iterate() if isinstance(r, Record)]
    records = [record for record, _ in pairs]
    ok = sorted((pair for pair in pairs if pair[0].outcome is Outcome.OK), key=_order)
    print(provenance(records))
    print(f"\n{len(ok)} measured rows.")
    points = [r for r, _ in ok if r.point == LATENCY and r.job.rebuild is None]
    kinds: dict[str, list[Record]] = {"plain": [], "scenario": [], "paper": [], "processes": [], "canary": []}
    for record in points:
        kinds[kind(record)].append(record)
    _print(HEAD, [row(r) for r in kinds["plain"]])
    _print(SCENARIO_HEAD, [scenario(r) for r in kinds["scenario"]])
    _print(PAPER_HEAD, [paper(r) for r in kinds["paper"]])
    _print(PROCESSES_HEAD, [processes(r) for r in kinds["processes"]])
    _print(CANARY_HEAD, [canary(r) for r in kinds["canary"]])
    _print(ENERGY_HEAD, [energy(r) for r in points if r.metrics.get("energy_per_input_j") is not None])
    _print(LADDER_HEAD, [ladder(r) for r, _ in ok if len(r.job.batches.sizes) > 2 and r.ladder_stop])
    _print(ACCURACY_HEAD, [accuracy(r) for r, _ in ok if r.point == ACCURACY])
    _print(BUILD_HEAD, [build(r, store) for r, store in ok if r.job.rebuild is not None])
    print(not_ok(records))


def _print(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if not rows:
        return
    print("\n| " + " | ".join(cell.strip() for cell in head) + " |\n|" + " --- |" * len(head))
    for cells in rows:
        print("| " + " | ".join(cells) + " |")


def _order(pair: tuple[Record, Store]) -> tuple[str, str, str, str, int, str]:
    record = pair[0]
    job = record.job
    return job.workflow, job.model.label, job.precision, _options(record), record.batch_size or 0, record.started_at


def _options(record: Record) -> str:
    """The options that tell one workflow from another, without the builder's effort."""
    told = {k: v for k, v in record.job.options.items() if k != "optimization_level"}
    return ", ".join(f"{key}={told[key]}" for key in sorted(told))


def _workflow(record: Record) -> str:
    options = _options(record)
    return record.job.workflow + (f" ({options})" if options else "")


def row(record: Record) -> list[str]:
    """One latency record as cells."""
    job, interval = record.job, record.intervals.get("latency_ms")
    bounds = f"{interval.low:.4g} to {interval.high:.4g}" if interval else "-"
    memory = record.metrics.get("gpu_memory_peak_bytes")
    name = job.model.label + (
        "" if job.model.sequence or job.model.input_shape[-1] == 224 else f" {job.model.input_shape[-1]} px"
    )
    cells = [name, _workflow(record), job.precision, str(record.batch_size), _number(record, "latency_ms"), bounds]
    cells += [_number(record, name) for name in ("device_latency_ms", "throughput_per_s", "mismatch_1e-3_pct")]
    cells += [_number(record, name) for name in ("top1_agreement", "fallback_node_share", "gpu_power_w")]
    cells += ["-" if memory is None else f"{memory / 2**20:.0f}", _number(record, "build_s")]
    return [*cells, ", ".join(flag.name for flag in record.flags)]


def kind(record: Record) -> str:
    """Which table a latency record belongs to."""
    protocol = record.job.protocol
    if is_canary(record.job):
        return "canary"
    if protocol.processes > 1:
        return "processes"
    # A sweep that changes a switch has no protocol's name; a fixed number of runs is the papers' rule alone.
    if protocol.min_iterations == protocol.max_iterations:
        return "paper"
    return "plain" if protocol.scenario == "single" and protocol.inputs == "rotated" else "scenario"


def paper(record: Record) -> list[str]:
    """A record made with the papers' protocol as cells: they print means."""
    job, memory = record.job, record.metrics.get("gpu_memory_peak_bytes")
    names = ("latency_mean_ms", "latency_ms", "throughput_per_s", "mismatch_1e-3_pct")
    cells = [job.model.label, _workflow(record), job.precision, str(record.batch_size)]
    cells += [*(_number(record, name) for name in names), "-" if memory is None else f"{memory / 2**20:.0f}"]
    return [*cells, ", ".join(flag.name for flag in record.flags)]


def processes(record: Record) -> list[str]:
    """A record of several processes as cells."""
    job, interval = record.job, record.intervals.get("latency_ms")
    bounds = f"{interval.low:.4g} to {interval.high:.4g}" if interval else "-"
    joules = record.metrics.get("energy_per_input_j")
    cells = [job.model.label, _workflow(record), job.precision, str(record.batch_size), str(len(record.processes))]
    cells += [_number(record, "latency_ms"), bounds, _each(record), "-" if joules is None else f"{1000 * joules:.4g}"]
    return [*cells, _number(record, "gpu_clock_sm_mhz"), ", ".join(flag.name for flag in record.flags)]


def canary(record: Record) -> list[str]:
    """A canary as cells."""
    cells = [record.job.model.label, record.job.workflow, str(record.batch_size), record.started_at[:19]]
    cells += [str(len(record.processes)), _number(record, "latency_ms"), _each(record)]
    return [*cells, ", ".join(flag.name for flag in record.flags)]


def _each(record: Record) -> str:
    """The median of each process."""
    return ", ".join(f"{each.metrics.get('latency_ms') or 0.0:.4g}" for each in record.processes)


def scenario(record: Record) -> list[str]:
    """A record of several requests in flight, of all at once, or with one input, as cells."""
    job, protocol, known = record.job, record.job.protocol, record.effective
    what = protocol.lanes_name if protocol.scenario == "streams" else protocol.scenario
    lanes = " + ".join(str(count) for count in known.get("lane_counts", ())) or "-"
    threads = known.get("enqueue_threads")
    cells = [job.model.label, _workflow(record), job.precision, str(record.batch_size), what, protocol.inputs]
    cells += [_number(record, name) for name in ("latency_ms", "throughput_per_s", "gpu_power_w")]
    return [*cells, lanes, "-" if threads is None else f"{threads:.2f}", ", ".join(f.name for f in record.flags)]


def energy(record: Record) -> list[str]:
    """What a record knows of energy, and the board's state meanwhile, as cells."""
    job, metrics = record.job, record.metrics
    cells = [job.model.label, _workflow(record), job.precision, str(record.batch_size)]
    cells.append(str(record.provenance.get("telemetry", {}).get("energy_pass", "measure")))
    for name in ("energy_per_input_j", "energy_trace_per_input_j"):
        joules = metrics.get(name)
        cells.append("-" if joules is None else f"{1000 * joules:.4g}")
    names = ("gpu_power_w", "gpu_clock_sm_mhz", "gpu_temperature_c", "gpu_throttled_share")
    return [*cells, *(_number(record, name) for name in names), ", ".join(f.name for f in record.flags)]


def ladder(record: Record) -> list[str]:
    """How far a batch ladder went, by its last record."""
    job = record.job
    cells = [job.model.label, _workflow(record), job.precision, str(job.batches.sizes[0])]
    return [
        *cells,
        _number(record, "largest_batch_ok"),
        str(record.ladder_stop),
        _number(record, "throughput_per_s"),
    ]


def accuracy(record: Record) -> list[str]:
    """One accuracy record as cells."""
    job, interval = record.job, record.intervals["top1"]
    (weights,) = {a.sha256[:12] for a in record.artifacts if a.kind == "weights"} or {"-"}
    calibration = job.calibration.summary if job.calibration else "-"
    top1, images = record.metrics["top1"] or 0.0, record.metrics["accuracy_samples"] or 0.0
    cells = [job.model.label, str(job.model.input_shape[-1]), _workflow(record), job.precision, calibration]
    return [
        *cells,
        f"{100 * top1:.2f}",
        f"{100 * interval.low:.2f} to {100 * interval.high:.2f}",
        f"{images:.0f}",
        weights,
    ]


def build(record: Record, store: Store) -> list[str]:
    """One of several builds as cells; the inspector's kept file gives the tactics where the record has no digest."""
    job, known, rebuild = record.job, record.effective, record.job.rebuild
    (inspector,) = [a.sha256 for a in record.artifacts if a.kind == "engine_inspector"] or [None]
    kept = inspector is not None and store.blobs.exists(inspector)
    tactics = known.get("tactics_sha256") or (tactics_sha256(store.blobs.read(inspector).decode()) if kept else None)
    which = f"{rebuild.index + 1} of {rebuild.count}, {rebuild.timing_cache}" if rebuild else "-"
    digests = [str(text or "-")[:12] for text in (known.get("engine_sha256"), tactics, known.get("outputs_sha256"))]
    cells = [job.model.label, _workflow(record), job.precision, which]
    return [*cells, _number(record, "build_s"), _number(record, "latency_ms"), *digests]


def _number(record: Record, name: str) -> str:
    value = record.metrics.get(name)
    return "-" if value is None else f"{value:.4g}"


def provenance(records: list[Record]) -> str:
    """Where and with what, each thing once."""
    devices = {f"{r.device.name}, driver {r.device.facts.get('driver_version')}" for r in records if r.device}
    stacks = {
        f"Python {r.stack.python_version}: " + ", ".join(f"{k} {v}" for k, v in sorted(r.stack.libraries.items()))
        for r in records
        if r.stack
    }
    runners = {str(r.provenance["runner_digest"])[:12] for r in records if r.provenance.get("runner_digest")}
    lines = [f"- Device: {text}" for text in sorted(devices)] + [f"- Stack: {text}" for text in sorted(stacks)]
    lines.append(f"- Measuring code (runner digests): {', '.join(sorted(runners))}")
    return "\n".join([*lines, *state(records)])


def state(records: list[Record]) -> list[str]:
    """The boards' state over all records that tell of it."""
    lines = []
    for name, what in (
        ("gpu_clock_sm_mhz", "Median SM clock in MHz"),
        ("gpu_temperature_c", "Largest temperature in C"),
        ("gpu_throttled_share", "Share of the timed stage that was throttled"),
    ):
        known = [value for r in records if (value := r.metrics.get(name)) is not None]
        if known:
            lines.append(f"- {what}: {min(known):g} to {max(known):g} ({len(known)} rows)")
    return lines


def not_ok(records: list[Record]) -> str:
    """What did not run, counted by reason."""
    counts = Counter(
        (r.job.workflow, r.job.precision, str(r.outcome), r.failure.message if r.failure else "")
        for r in records
        if r.outcome is not Outcome.OK
    )
    if not counts:
        return "\nEvery run is ok."
    lines = [
        f"- {n} x {workflow} {precision}: {outcome}: {why}" for (workflow, precision, outcome, why), n in counts.items()
    ]
    return "\n".join(["\n## Not ok\n", *lines])


if __name__ == "__main__":
    main()
