# SPDX-License-Identifier: Apache-2.0
"""The metric table: what each number means, its unit, and which way is better."""

from dataclasses import dataclass
from typing import Dict, Optional, Tuple, Union


@dataclass(frozen=True)
class Metric:
    """`better` is `lower`, `higher` or None where neither is (a temperature). `group` is its heading in the docs."""

    name: str
    unit: str
    better: Optional[str]
    description: str
    group: str


#: A text begins the group of the rows after it, in the order of docs/metrics.md.
_ROWS: Tuple[Union[str, Tuple[str, str, Optional[str], str]], ...] = (
    "Latency",
    ("latency_ms", "ms", "lower", "Median time of one request at the protocol's boundary; withheld of `offline`"),
    ("latency_mean_ms", "ms", "lower", "Mean of the latency samples"),
    ("latency_min_ms", "ms", "lower", "Smallest latency sample: not for ranking, a boost clock flatters it"),
    ("latency_max_ms", "ms", "lower", "Largest latency sample"),
    ("latency_sd_ms", "ms", "lower", "Sample standard deviation of the latency"),
    ("latency_p25_ms", "ms", "lower", "First quartile of the latency"),
    ("latency_p75_ms", "ms", "lower", "Third quartile of the latency"),
    ("latency_p90_ms", "ms", "lower", "90th percentile of the latency; withheld below 64 samples"),
    ("latency_p95_ms", "ms", "lower", "95th percentile of the latency; withheld below 130 samples"),
    ("latency_p99_ms", "ms", "lower", "99th percentile of the latency; withheld below 662 samples"),
    ("latency_rcv", "1", "lower", "Robust coefficient of variation: 1.4826 * MAD / median"),
    ("sample_count", "1", None, "Number of timed inferences, all of them kept"),
    (
        "device_latency_ms",
        "ms",
        "lower",
        "Median time of one inference between two events on the device, without the way there and back",
    ),
    ("enqueue_ms", "ms", "lower", "Median time until the call that starts an inference returns to the host"),
    ("first_inference_ms", "ms", "lower", "The very first inference after load, no warm-up"),
    "Throughput",
    ("throughput_per_s", "inputs/s", "higher", "Inputs finished in the timed stage over its wall clock"),
    (
        "requests_per_s",
        "1/s",
        "higher",
        "Requests finished in the timed stage over its wall clock; of the scenario `streams`",
    ),
    ("largest_batch_ok", "1", "higher", "Largest batch size of the ladder that ran; on the record at which it ended"),
    "Load and build",
    ("load_ms", "ms", "lower", "Load of the model or engine until it is ready to run"),
    ("build_s", "s", "lower", "Export, calibration and build of what runs, when it was made"),
    ("engine_bytes", "bytes", "lower", "Size of the file that is loaded to run"),
    (
        "fallback_node_share",
        "1",
        "lower",
        "Share of the graph's operators that run outside of the engine or provider asked for",
    ),
    "Memory",
    ("host_rss_bytes", "bytes", "lower", "Resident memory of the measuring process after the timed stage"),
    ("host_rss_peak_bytes", "bytes", "lower", "Largest resident memory of the measuring process"),
    (
        "gpu_memory_peak_bytes",
        "bytes",
        "lower",
        "Largest memory in use on the whole GPU during the run, driver included",
    ),
    (
        "gpu_memory_v2_peak_bytes",
        "bytes",
        "lower",
        "The same by NVML's second version, which on an H200 leaves out what the driver reserves",
    ),
    ("gpu_memory_before_bytes", "bytes", None, "Memory in use on the whole GPU before the run"),
    ("gpu_allocator_peak_bytes", "bytes", "lower", "Largest memory that the workflow's own allocator gave out"),
    (
        "context_memory_bytes",
        "bytes",
        "lower",
        "Device memory that each execution context of a TensorRT engine takes for activations, as the engine tells",
    ),
    ("memory_available_drop_bytes", "bytes", "lower", "Largest fall of a Jetson's available memory during the run"),
    "Energy and power",
    (
        "energy_per_input_j",
        "J",
        "lower",
        "Energy per input of the energy pass, else of the timed stage: a counter's difference, else integrated power",
    ),
    ("energy_trace_per_input_j", "J", "lower", "Integrated power of the same stage, per input: checks the counter"),
    ("gpu_power_w", "W", None, "Mean power of the GPU board in that stage, from instants where it tells them"),
    ("gpu_power_average_w", "W", None, "Mean of the power that the GPU board itself averages over a second"),
    ("soc_power_w", "W", None, "Mean power of a Jetson's input rail, else of the sum of its rails"),
    "The device while it was measured",
    ("gpu_utilisation", "1", None, "Mean share of time with a kernel on the GPU in the timed stage: a sign of life"),
    ("gpu_clock_sm_mhz", "MHz", None, "Median clock of the streaming multiprocessors in the timed stage"),
    ("gpu_clock_memory_mhz", "MHz", None, "Median clock of the GPU's memory in the timed stage"),
    ("gpu_temperature_c", "C", None, "Largest GPU temperature in the timed stage"),
    ("gpu_throttled_share", "1", "lower", "Share of the timed stage in which heat or the board held the clock back"),
    ("cpu_utilisation", "1", None, "CPU time over wall clock of the timed stage: 2.0 is two cores kept busy"),
    ("cpu_frequency_mhz", "MHz", None, "Mean core frequency in the timed stage, where the host reports one"),
    ("cpu_temperature_c", "C", None, "Largest package temperature in the timed stage, where the host reports one"),
    "The host while it was measured",
    ("cpu_load_before", "1", None, "One-minute load average over cores, before the run"),
    ("involuntary_switches", "1", None, "Involuntary context switches of the measuring process in the timed stage"),
    (
        "cpu_wait_share",
        "1",
        "lower",
        "Of the time in which threads of the measuring process could run in the timed stage, the share waiting for a"
        " processor",
    ),
    ("host_switches_per_s", "1/s", None, "Context switches of the whole host in the timed stage"),
    ("telemetry_cpu_share", "1", "lower", "Processor time of the telemetry process over wall clock of the timed stage"),
    "The stopwatch",
    ("timer_overhead_ns", "ns", None, "Cost of reading the clock twice, measured at start"),
    ("timer_resolution_ns", "ns", None, "Smallest step of the clock, measured at start"),
    "Outputs against the reference",
    ("mismatch_1e-3_pct", "%", "lower", "Outputs not close to the reference at rtol 1e-3, atol 1e-8"),
    ("mismatch_1e-4_pct", "%", "lower", "Outputs not close to the reference at rtol 1e-4, atol 1e-8"),
    ("top1_agreement", "1", "higher", "Share of inputs whose largest output is the reference's"),
    ("relative_l2_error", "1", "lower", "L2 norm of the error over that of the reference, worst output"),
    ("cosine_similarity", "1", "higher", "Cosine of the angle between output and reference, worst output"),
    ("max_abs_error", "1", "lower", "Largest absolute error of any element, worst output"),
    ("mean_abs_error", "1", "lower", "Mean absolute error over the elements, worst output"),
    "Accuracy on test images",
    ("top1", "1", "higher", "Share of the test images whose class has the largest output"),
    (
        "top5",
        "1",
        "higher",
        "Share of the test images whose class is among the five largest outputs; from 5 classes on",
    ),
    ("accuracy_samples", "1", None, "Number of test images that top1 and top5 are taken on"),
    "The whole pipeline",
    ("pipeline_serial_per_s", "inputs/s", "higher", "From JPEG file to top-5, one stage after the other"),
    ("pipeline_overlapped_per_s", "inputs/s", "higher", "From JPEG file to top-5, all stages at once"),
    ("pipeline_speed_up", "1", "higher", "Overlapped over serial throughput of the pipeline"),
    ("pipeline_bound_share", "1", "higher", "Overlapped throughput over 1 / the longest worker's time for an image"),
    ("pipeline_infer_share", "1", None, "Share of the serial pass's wall clock that inference itself takes"),
    ("pipeline_decode_share", "1", None, "Share of the serial pass's wall clock that decoding JPEG files takes"),
    ("pipeline_busiest_share", "1", None, "Share of time in which the busiest worker of the overlapped pass was busy"),
)


def _table() -> Dict[str, Metric]:
    found, group = {}, ""
    for row in _ROWS:
        if isinstance(row, str):
            group = row
        else:
            found[row[0]] = Metric(*row, group=group)
    return found


METRICS: Dict[str, Metric] = _table()

#: Fewest samples that bound a percentile (MLPerf early stopping, d = 0, c = 0.99).
PERCENTILE_MIN_SAMPLES = {90: 64, 95: 130, 99: 662}
