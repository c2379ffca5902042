# SPDX-License-Identifier: Apache-2.0
"""The overlapped pipeline as threads: nothing lost or doubled, and a stage that fails ends all of them."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from farm.contract.pipeline import PipelineSpec
from workers.runner.arrivals import Scheduled, Steady, schedule
from workers.runner.measure import now_ns
from workers.runner.pipeline_line import Line

np = pytest.importorskip("numpy")

STAGES = ("decode", "preprocess", "collate", "device", "postprocess")
S = 1_000_000_000


class Stand:
    """Stages that hand a number on; the seventh call of `bad` raises, and the device takes `slow_s`."""

    batch_size = 4

    def __init__(self, bad: str = "", slow_s: float = 0.0) -> None:
        self._bad, self._slow_s, self._calls = bad, slow_s, 0

    def _called(self, name: str) -> None:
        self._calls += name == self._bad
        if name == self._bad and self._calls >= 7:
            raise ValueError(name)

    def decode(self, number: int) -> int:
        self._called("decode")
        return number

    def preprocess(self, picture: int) -> int:
        self._called("preprocess")
        return picture

    def collate(self, images: list[int]) -> list[int]:
        self._called("collate")
        return images

    def device(self, _spans: Any, batch: list[int]) -> list[int]:
        self._called("device")
        time.sleep(self._slow_s)
        return batch

    def postprocess(self, scores: list[int], count: int) -> tuple[Any, None]:
        self._called("postprocess")
        return np.array(scores[:count]).reshape(-1, 1), None


def line(stages: Stand, threads: int, max_wait_ns: int | None = None) -> Line:
    return Line(stages, PipelineSpec(decode_workers=threads, preprocess_workers=threads), max_wait_ns)  # type: ignore[arg-type]


def source(kind: str, count: int = 200) -> Steady | Scheduled:
    if kind == "scheduled":
        return Scheduled(schedule(count / 0.1, 0.1, "poisson", "1"), now_ns(), now_ns)
    left = iter(range(count))
    return Steady(lambda: next(left, None) is None)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kind", ["steady", "scheduled"])
def test_every_image_comes_to_its_end_once(kind: str, threads: int) -> None:
    trace = line(Stand(), threads, 1_000_000 if kind == "scheduled" else None).run(source(kind), now_ns() + 20 * S)
    assert sorted(trace.numbers) == list(range(200))
    assert list(trace.best) == list(trace.numbers), "an image's answer is its own"
    assert sum(trace.batch_counts) == 200 and max(trace.batch_counts) <= 4


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kind", ["steady", "scheduled"])
@pytest.mark.parametrize("bad", STAGES)
def test_a_stage_that_fails_ends_all_threads_and_is_what_is_raised(bad: str, kind: str, threads: int) -> None:
    before = threading.active_count()
    with pytest.raises(ValueError, match=bad):
        line(Stand(bad), threads, 1_000_000 if kind == "scheduled" else None).run(source(kind), now_ns() + 20 * S)
    assert threading.active_count() == before


def test_a_load_that_is_too_much_is_given_up_in_time() -> None:
    begin, before = now_ns(), threading.active_count()
    trace = line(Stand(slow_s=0.05), 2, 1_000_000).run(source("scheduled"), begin + S // 4)
    assert 0 < len(trace.numbers) < 200
    assert now_ns() - begin < 20 * S and threading.active_count() == before
