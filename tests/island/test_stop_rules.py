# SPDX-License-Identifier: Apache-2.0
"""When more samples would tell nothing more: nvbench's rule against a direct translation, the median's interval."""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Callable, Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from farm.contract.quantiles import quantile, relative_half_width
from farm.summary import summarise
from workers.runner.stop_rules import Noise, StopRule

samples_of = st.lists(st.integers(1, 10**10), min_size=1, max_size=300)


class Translated:
    """nvbench's `stdrel_criterion` at 66212f1, its plateau alone, line for line."""

    def __init__(self) -> None:
        self.samples: list[float] = []
        self.tracker: list[float] = []

    def do_add_measurement(self, measurement: float) -> None:
        self.samples.append(measurement)
        if len(self.samples) < 5:
            return
        mean = math.fsum(self.samples) / len(self.samples)
        unbiased = math.fsum((x - mean) ** 2 for x in self.samples) / (len(self.samples) - 1)
        if mean > 0:
            self.tracker = [*self.tracker, math.sqrt(unbiased) / mean][-512:]

    def do_is_finished(self) -> bool:
        if len(self.tracker) > 64 and len(self.samples) % 16 == 0:
            mean = math.fsum(self.tracker) / len(self.tracker)
            variance = math.fsum((x - mean) ** 2 for x in self.tracker) / len(self.tracker)
            return variance < (mean * 0.05) ** 2
        return False


def _settles_at(samples: Sequence[float]) -> int | None:
    noise = Noise()
    for number, sample in enumerate(samples, 1):
        noise.add(sample)
        if number % 16 == 0 and noise.has_settled():
            return number
    return None


def _translated_settles_at(samples: Sequence[float]) -> int | None:
    rule = Translated()
    for number, sample in enumerate(samples, 1):
        rule.do_add_measurement(sample)
        if rule.do_is_finished():
            return number
    return None


def _normal(cv: float, count: int, seed: int = 1) -> list[int]:
    draw = random.Random(seed)
    return [round(draw.gauss(1e6, cv * 1e6)) for _ in range(count)]


@given(st.integers(0, 10**6), st.sampled_from([0.001, 0.02, 0.1]), st.integers(0, 3))
def test_the_plateau_is_where_nvbench_finds_it(seed: int, cv: float, spikes: int) -> None:
    samples = _normal(cv, 640, seed)
    for place in random.Random(seed).sample(range(640), spikes):
        samples[place] *= 4
    assert _settles_at(samples) == _translated_settles_at(samples)


def test_noise_that_goes_on_the_same_settles_and_noise_that_grows_does_not() -> None:
    steady = _settles_at(_normal(0.05, 2000))
    assert steady is not None
    assert 64 < steady < 1000
    draw = random.Random(2)
    growing = [round(1e6 + i * 4e3 * draw.random()) for i in range(600)]
    assert _settles_at(growing) is None
    assert _settles_at([1_000_000, 1_100_000] * 40) is not None, "a period is noise that goes on the same"


def test_no_noise_at_all_has_settled_too() -> None:
    assert _settles_at([500] * 68) is None, "64 values of the noise or fewer tell nothing"
    assert _settles_at([500] * 80) == 80
    assert _settles_at([0] * 200) is None, "relative to nothing, there is no noise"


@given(st.integers(0, 1000), st.integers(-8, 8))
def test_the_noise_is_relative(seed: int, power: int) -> None:
    samples = _normal(0.03, 640, seed)
    assert _settles_at(samples) == _settles_at([sample * 2.0**power for sample in samples])


@given(samples_of)
@example([5, 5, 5, 5, 5, 5])
@example([1, 2, 3, 4, 5])
def test_the_half_width_is_that_of_the_interval_in_the_record(samples: list[int]) -> None:
    summary = summarise(samples, batch_size=1, wall_ns=sum(samples))
    found, interval, median = relative_half_width(sorted(samples)), None, summary.metrics["latency_ms"]
    if "latency_ms" in summary.intervals:
        interval = summary.intervals["latency_ms"]
    assert (found is None) == (interval is None)
    if found is not None and interval is not None and median:
        assert found == pytest.approx((interval.high - interval.low) / 2 / median)


def test_a_median_of_zero_has_no_relative_width() -> None:
    assert relative_half_width([0] * 20) is None


@given(samples_of, st.randoms(use_true_random=False), st.integers(-10, 10), st.floats(0.001, 0.5))
def test_the_target_asks_for_neither_order_nor_unit(
    samples: list[int], shuffler: random.Random, power: int, target: float
) -> None:
    def says(values: Sequence[float]) -> str | None:
        return StopRule(target, plateau=False).ended_by(array("d", values))  # type: ignore[arg-type]

    shuffled = [sample * 2.0**power for sample in samples]
    shuffler.shuffle(shuffled)
    assert says(samples) == says(shuffled)


@given(samples_of, st.floats(0.001, 0.5))
def test_the_target_is_reached_when_the_interval_is_that_narrow(samples: list[int], target: float) -> None:
    ordered = sorted(samples)
    width = relative_half_width(ordered)
    reached = width is not None and width <= target
    assert StopRule(target, plateau=False).ended_by(array("q", samples)) == ("target" if reached else None)


def _ends(rule: StopRule, draw: Callable[[], int], most: int = 5000) -> tuple[int, str | None]:
    """Ask as the loop does: from 16 samples on, when the rule wants to be asked."""
    samples, look = array("q"), 16
    while True:
        while len(samples) < look:
            samples.append(draw())
        ended_by = rule.ended_by(samples)
        if ended_by or look >= most:
            return look, ended_by
        look = rule.next_look(look)


def test_what_is_narrow_enough_ends_by_target_and_what_never_will_be_by_plateau() -> None:
    draw = random.Random(3)
    few, by = _ends(StopRule(0.005, plateau=True), lambda: round(draw.gauss(1e6, 1e4)))
    assert (by, few) == ("target", few)
    assert few < 100
    noisy, by = _ends(StopRule(0.005, plateau=True), lambda: round(draw.gauss(1e6, 3e5)))
    assert by == "plateau"
    assert 64 < noisy < 1500
    assert _ends(StopRule(1e-6, plateau=False), lambda: round(draw.gauss(1e6, 3e5)))[1] is None


def test_noise_is_tracked_over_every_sample_however_rarely_it_is_asked_for() -> None:
    samples = _normal(0.05, 2000)
    where = _settles_at(samples)
    assert where is not None
    often, once = StopRule(None, plateau=True), StopRule(None, plateau=True)
    said = [often.ended_by(array("q", samples[:n])) for n in range(16, where + 1, 16)]
    assert said == [None] * (len(said) - 1) + ["plateau"]
    assert once.ended_by(array("q", samples[:where])) == "plateau"


def test_looks_grow_apart_with_the_samples() -> None:
    rule = StopRule(0.01, plateau=True)
    assert [rule.next_look(done) for done in (1, 100, 256, 1600, 16000)] == [17, 116, 272, 1700, 17000]


def test_the_interval_still_covers_after_looking_again_and_again() -> None:
    """Stopping where the interval is narrow must not make it tell less than it says; 400 runs with 5 % of noise."""
    draw, hits = random.Random(11), 0
    for _ in range(400):
        samples, look, rule = array("q"), 100, StopRule(0.01, plateau=False)
        while True:
            samples.extend(round(draw.gauss(1e6, 5e4)) for _ in range(look - len(samples)))
            if rule.ended_by(samples):
                break
            look = rule.next_look(look)
        width = relative_half_width(sorted(samples))
        assert width is not None
        hits += abs(quantile(sorted(samples), 0.5) / 1e6 - 1) <= width
    assert hits / 400 > 0.92
