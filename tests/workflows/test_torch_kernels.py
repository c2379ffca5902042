# SPDX-License-Identifier: Apache-2.0
"""A torch row's time is that in which a kernel of it ran. Events are of the shapes that torch 2.2 and 2.13 have."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.workflows.test_layers import Recorder, event, kernel, nested
from workers.workflows.layers import Observed
from workers.workflows.torch_kernels import Kernel, busy_ns, longest, on_device, span_of, timed
from workers.workflows.torch_layers import TorchLayers

#: As Kineto counts: from 1970.
START_NS = 1_790_000_000_000_000_000
INDICES, GEMM = "cudnn::kern_precompute_indices", "implicit_convolve_sgemm<float, float>"

#: A kernel on the device: name, start and duration in us.
Ran = tuple[str, int, int]


def raw(number: int, ran: Ran, in_ns: bool = False, device: str = "DeviceType.CUDA") -> Any:
    """What Kineto has of a kernel that the operator of this number launched."""
    name, start, duration = ran
    found = {"name": name, "device_type": device, "linked_correlation_id": number}
    found |= {"start_ns": START_NS + start * 1000, "duration_ns": duration * 1000} if in_ns else {}
    found |= {} if in_ns else {"start_us": START_NS // 1000 + start, "duration_us": duration}
    return SimpleNamespace(**{key: (lambda value=value: value) for key, value in found.items()})


def profiled(*iterations: dict[str, list[Ran]], in_ns: bool = False, told: list[Any] | None = None) -> Recorder:
    """A profile of iterations, each with the kernels of its modules and operators; `told`: what Kineto has instead."""
    steps, raws, number = [], [], 0
    for operators in iterations:
        made = []
        for name, runs in operators.items():
            number += 1
            of_module = name.startswith("inferfarm::module")
            launched = tuple((ran[0], float(ran[2])) for ran in runs)
            operator = event("aten::cudnn_convolution" if of_module else name, kernels=launched, number=number)
            made.append(event(name, operator, number=2000 + number) if of_module else operator)
            raws += [raw(number, ran, in_ns) for ran in runs]
        steps.append(event("inferfarm::iteration", *made, number=1000 + number))
    device = [kernel(ran[0], float(ran[2])) for each in iterations for runs in each.values() for ran in runs]
    recorder = Recorder(*steps, *(found for step in steps for found in nested(step)), *device)
    recorder.kineto_results = SimpleNamespace(events=lambda: raws if told is None else told)
    return recorder


def observed(recorder: Recorder, count: int = 1) -> tuple[list[Observed], list[str]]:
    profiler = TorchLayers(recorder, None, on_gpu=True, by_module=True)
    profiler._module = SimpleNamespace(named_modules=list)
    return profiler.observe(lambda: None, count), profiler.notes


CONV = "inferfarm::module::layer4.2.conv2"
SIDE_BY_SIDE: list[Ran] = [(INDICES, 0, 2), (INDICES, 1, 2), (GEMM, 3, 900), (GEMM, 4, 901)]
IN_TURN: list[Ran] = [(INDICES, 0, 2), (GEMM, 2, 900), (INDICES, 950, 2), (GEMM, 960, 900)]


@pytest.mark.parametrize("in_ns", [False, True])
@pytest.mark.parametrize(("runs", "taken_us"), [(SIDE_BY_SIDE, 905.0), (IN_TURN, 1804.0)])
def test_kernels_side_by_side_take_the_time_in_which_one_of_them_ran(
    runs: list[Ran], taken_us: float, in_ns: bool
) -> None:
    (row,), notes = observed(profiled({CONV: runs}, in_ns=in_ns))
    assert (row.name, row.times_ns, row.calls) == ("layer4.2.conv2", [taken_us * 1e3], 4)
    assert notes == []


def test_a_name_in_several_inferences_and_rows_counts_where_it_ran() -> None:
    other = "inferfarm::module::layer4.1.conv2"
    first = {CONV: [(GEMM, 0, 100), (GEMM, 50, 100)], other: [(GEMM, 120, 100)]}
    second = {CONV: [(GEMM, 1000, 100), (GEMM, 1100, 100)], other: [(GEMM, 1300, 100)]}
    rows, _ = observed(profiled(first, second, {CONV: [(GEMM, 2000, 100)]}), 3)
    assert {row.name: (row.times_ns, row.calls) for row in rows} == {
        "layer4.2.conv2": ([150e3, 200e3, 100e3], 5),
        "layer4.1.conv2": ([100e3, 100e3, 0.0], 2),
    }


def test_a_row_below_several_operators_is_one_stretch_of_time() -> None:
    below = [event("aten::mm", kernels=((GEMM, 100.0),), number=number) for number in (1, 2)]
    step = event("inferfarm::iteration", event(CONV, *below, number=7), number=8)
    recorder = Recorder(step, *nested(step), kernel(GEMM, 100.0), kernel(GEMM, 100.0))
    recorder.kineto_results = SimpleNamespace(events=lambda: [raw(1, (GEMM, 0, 100)), raw(2, (GEMM, 60, 100))])
    assert observed(recorder)[0][0].times_ns == [160e3]


@pytest.mark.parametrize(
    "told",
    [
        [],
        [raw(1, (GEMM, 0, 100))],
        [raw(1, (GEMM, 0, 100)), raw(1, (GEMM, 50, 99))],
        [raw(1, (GEMM, 0, 100)), raw(1, (INDICES, 50, 100))],
        [raw(2, (GEMM, 0, 100)), raw(2, (GEMM, 50, 100))],
        [raw(1, (GEMM, 0, 100), device="DeviceType.CPU"), raw(1, (GEMM, 50, 100))],
        [SimpleNamespace(name="of another torch")],
    ],
    ids=["none", "fewer", "other-duration", "other-name", "other-operator", "of-the-host", "other-interface"],
)
def test_where_it_is_not_known_when_kernels_ran_their_durations_are_added_and_that_is_said(told: list[Any]) -> None:
    (row,), notes = observed(profiled({CONV: [(GEMM, 0, 100), (GEMM, 50, 100)]}, told=told))
    assert (row.times_ns, row.calls) == ([200e3], 2)
    assert notes == [
        "when the kernels of 1 rows ran is not known: their time is the sum of the kernels' durations"
    ]  # fmt: skip


def test_a_single_kernel_needs_no_start() -> None:
    (row,), notes = observed(profiled({CONV: [(GEMM, 0, 100)]}, told=[]))
    assert (row.times_ns, notes) == ([100e3], [])


def test_a_row_is_told_by_its_longest_kernel_and_so_is_the_type_of_an_operators() -> None:
    half = "sm80_xmma_fprop_implicit_gemm_f16f16_f16f16_f16"
    runs = [(INDICES, 0, 2), ("cudnn::nchwToNhwcKernel<float, float>", 2, 3), (half, 5, 90)]
    module, operator = observed(profiled({CONV: runs, "aten::conv2d": [(n, at + 100, us) for n, at, us in runs]}))[0]
    assert (module.tactic, module.precision) == (half, None)
    assert (operator.name, operator.tactic, operator.precision) == ("aten::conv2d", half, "fp16")
    assert longest([Kernel("once", 50.0), Kernel("twice", 30.0), Kernel("twice", 30.0)]) == "twice"


def test_kernels_of_no_operator_stay_what_they_were() -> None:
    recorder = profiled({CONV: SIDE_BY_SIDE})
    recorder._events += (kernel("triton_poi", 4.0), kernel("triton_poi", 4.0))
    rows, _ = observed(recorder)
    assert {row.name: (row.times_ns, row.calls) for row in rows} == {
        "layer4.2.conv2": ([905e3], 4), "triton_poi": ([8e3], 2),
    }  # fmt: skip


def test_the_union_of_spans() -> None:
    def spans(*ends: tuple[int, int]) -> list[Kernel]:
        return [Kernel("k", end - start, (start, end)) for start, end in ends]

    assert busy_ns(spans((0, 10), (10, 20))) == 20
    assert busy_ns(spans((5, 25), (0, 10), (6, 8))) == 25
    assert busy_ns(spans((0, 100), (10, 20), (30, 40), (90, 110))) == 110
    late = START_NS + 1
    assert busy_ns(spans((late, late + 1), (late + 2, late + 3))) == 2
    assert busy_ns([*spans((0, 10), (5, 15)), Kernel("k", 7.0)]) == 27


def test_what_is_read_of_kineto_is_there_in_this_torch() -> None:
    """Of operators, for there is no GPU: the same methods tell of both."""
    torch = pytest.importorskip("torch")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        torch.ones(64, 64) @ torch.ones(64, 64)
    found = profile.profiler.kineto_results.events()
    events = {(each.name, each.id): each for each in profile.events()}
    assert found
    for each in found:
        of = events[each.name(), each.correlation_id()]
        start, end = span_of(each)
        assert (end - start) / 1e3 == pytest.approx(of.time_range.elapsed_us())
        assert (str(each.device_type()), each.linked_correlation_id()) == (str(of.device_type), 0)
    assert on_device(profile) == {}
    assert timed([], []) == []
