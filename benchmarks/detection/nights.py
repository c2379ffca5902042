# SPDX-License-Identifier: Apache-2.0
"""Simulated nights of a farm whose changes are known, and what a real re-run of them would draw anew.

All on logarithms of a time. A process of series i on night t takes

    level(t) + machine(t) + build + noise

`level` is the software: one step at a known night, or none; it alone is what a detector should find. `machine` is all
that both sides of an A/B measured tonight share: an AR(1) walk of days, a slow sinusoid, a drift over the whole time
(some series), a shift of the whole device (some nights), a spike that lasts the night. `build` is the mode of the
engine (of the rebuilt class: a quarter are 4 % slower), one a night, drawn anew for every process of an A/B, as each
rebuilds.
`noise` is the process's own. Spikes that do not last hit the night's runs and no re-run.
"""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import dataclass, field
from datetime import date, timedelta

NIGHTS, SERIES, PROCESSES = 60, 60, 3
SIZES = (0.02, 0.03, 0.05, 0.10, 0.20)
FIRST, LAST = 18, 45
#: The first nights count for nobody: every rule needs a history, and some alert wildly without one.
BURN_IN = 10
MISSING = 0.05
STICKY = 0.2
MODE_SHARE, MODE = 0.25, 0.04


@dataclass(frozen=True)
class Noise:
    """How one kind of device scatters: shares, but for `rho` and `spikes` (a night's chance of one)."""

    name: str
    run: float
    day: float
    rho: float
    spikes: float
    heavy: bool = False
    rebuilt: bool = False


CLASSES = (
    Noise("dc_gpu", 0.003, 0.002, 0.5, 0.01),
    Noise("jetson", 0.008, 0.005, 0.5, 0.02),
    Noise("laptop", 0.015, 0.015, 0.7, 0.03),
    Noise("cpu", 0.015, 0.010, 0.5, 0.04, heavy=True),
    Noise("rebuild", 0.004, 0.002, 0.5, 0.01, rebuilt=True),
)


@dataclass
class Simulated:
    """One series: what was drawn for every night, and the truth about its software."""

    key: str
    noise: Noise
    change: float
    at: int
    machine: list[float]
    spike: list[float]
    sticky: list[bool]
    build: list[float]
    width: list[float]
    missing: set[int]
    rng: random.Random = field(repr=False)
    values: list[float | None] = field(default_factory=list)

    def level(self, night: int) -> float:
        """The software of a night."""
        return math.log1p(self.change) if self.change and night >= self.at else 0.0

    def process(self, software: int, tonight: int, build: float) -> float:
        """The time of a process that runs the software of one night on the machine of another, in ms."""
        noise = _t3(self.rng) if self.noise.heavy else self.rng.gauss(0, 1)
        return 10 * math.exp(
            self.level(software) + self.machine[tonight] + build + noise * self.noise.run * self.width[tonight]
        )

    def night(self, night: int) -> float | None:
        """The median of the night's runs."""
        if night in self.missing:
            return None
        runs = [self.process(night, night, self.build[night]) for _ in range(PROCESSES)]
        return statistics.median(runs) * math.exp(self.spike[night])

    def rerun(self, software: int, tonight: int) -> float:
        """A process of an A/B: what a re-run redraws is drawn anew, all else is the night's."""
        lasting = self.spike[tonight] if self.sticky[tonight] else 0.0
        return self.process(software, tonight, _mode(self.noise, self.rng)) * math.exp(lasting)


@dataclass(frozen=True)
class Farm:
    """All series of a seed, the nights' names, and the shifts of devices: (class, first night, night after, size)."""

    names: tuple[str, ...]
    series: tuple[Simulated, ...]
    shifts: tuple[tuple[str, int, int, float], ...]


def simulate(seed: int, nights: int = NIGHTS, per_class: int = SERIES) -> Farm:
    """One farm: a device of each class with `per_class` series, half of which change."""
    rng = random.Random(seed)
    names = tuple((date(2026, 1, 1) + timedelta(days=t)).isoformat() for t in range(nights))
    series, shifts = [], []
    for noise in CLASSES:
        moved = [0.0] * nights
        if rng.random() < 0.5:
            begin = rng.randrange(15, nights - 5)
            end = nights if rng.random() < 0.5 else min(begin + rng.randrange(2, 12), nights)
            size = rng.choice((-1, 1)) * rng.uniform(0.03, 0.10)
            shifts.append((noise.name, begin, end, size))
            moved = [math.log1p(size) if begin <= t < end else 0.0 for t in range(nights)]
        series += [_series(noise, number, moved, rng.getrandbits(64)) for number in range(per_class)]
    for one in series:
        one.values = [one.night(t) for t in range(nights)]
    return Farm(names, tuple(series), tuple(shifts))


def _series(noise: Noise, number: int, moved: list[float], seed: int) -> Simulated:
    rng, nights = random.Random(seed), len(moved)
    changed = number % 2 == 1
    size = SIZES[number // 2 % len(SIZES)] * rng.choice((-1, 1))
    # Not all series of a device feel its shift alike.
    part = rng.uniform(0.8, 1.2)
    days = _days(noise, nights, rng)
    drift = rng.uniform(-0.02, 0.02) if rng.random() < 0.1 else 0.0
    wider = rng.randrange(15, nights) if rng.random() < 0.1 else nights
    spiked = [rng.random() < noise.spikes for _ in range(nights)]
    return Simulated(
        key=f"{noise.name}-{number:03}",
        noise=noise,
        change=size if changed else 0.0,
        at=rng.randrange(FIRST, LAST + 1) if changed else nights,
        machine=[days[t] + part * moved[t] + drift * t / nights for t in range(nights)],
        spike=[rng.uniform(0.05, 0.30) if spiked[t] else 0.0 for t in range(nights)],
        sticky=[rng.random() < STICKY for _ in range(nights)],
        build=[_mode(noise, rng) for _ in range(nights)],
        width=[2.0 if t >= wider else 1.0 for t in range(nights)],
        missing={t for t in range(nights) if rng.random() < MISSING},
        rng=rng,
    )


def _days(noise: Noise, nights: int, rng: random.Random) -> list[float]:
    """The walk of days, stationary from the first, and a slow wave of half its size."""
    value, step = rng.gauss(0, noise.day), noise.day * math.sqrt(1 - noise.rho**2)
    period, phase = rng.uniform(20, 50), rng.uniform(0, 2 * math.pi)
    found = []
    for t in range(nights):
        found.append(value + 0.5 * noise.day * math.sin(2 * math.pi * t / period + phase))
        value = noise.rho * value + rng.gauss(0, step)
    return found


def _mode(noise: Noise, rng: random.Random) -> float:
    return math.log1p(MODE) if noise.rebuilt and rng.random() < MODE_SHARE else 0.0


def _t3(rng: random.Random) -> float:
    """Student's t with three degrees of freedom, scaled to a standard deviation of 1."""
    return rng.gauss(0, 1) / math.sqrt(rng.gammavariate(1.5, 2) / 3) / math.sqrt(3)
