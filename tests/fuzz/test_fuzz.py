# SPDX-License-Identifier: Apache-2.0
"""Whatever comes from outside ends in a value or in one clear error: no traceback, no hang, no write elsewhere.

`make test` takes the short form. `make fuzz INPUTS=10000` takes that many inputs for each target; the seed of a
failure is in its message, and `SEED=... INPUTS=...` repeats it.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farm.store import Store
from tests.fuzz.mutate import mutate
from tests.fuzz.targets import TARGETS, Target

INPUTS = int(os.environ.get("INPUTS", "150"))
SEED = os.environ.get("SEED") or ("farm" if os.environ.get("CI") == "true" else str(time.time_ns()))
#: Far more than any input takes, on a machine that does much else.
LIMIT_S = 120.0


class Hang(BaseException):
    """An input took too long. No Exception: nothing that is fuzzed may catch it."""


@contextmanager
def limited() -> Iterator[None]:
    def stop(_number: int, _frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def snapshot(directory: Path, but: tuple[str, ...]) -> dict[str, str]:
    """Every entry below, but for those below `but`: its kind, and of files their digest."""
    found = {}
    for folder, names, files in os.walk(directory):
        here = Path(folder).relative_to(directory)
        names[:] = [name for name in names if str(here / name) not in but]
        for name in (*names, *files):
            path = directory / here / name
            if str(here / name) not in but:
                found[str(here / name)] = (
                    hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "directory"
                )
    return found


def attempt(target: Target, data: bytes, place: Path) -> str | None:
    """What is wrong with how the target takes this input; None if nothing is."""
    try:
        with limited():
            target.read(data, place)
    except target.errors as error:
        text = str(error)
        return None if len(text) < 20_000 else f"an error of {len(text)} characters"
    except Hang:
        return f"hangs: over {LIMIT_S} s"
    except Exception:  # noqa: BLE001 - any other kind is what is looked for
        return traceback.format_exc(limit=-6)
    return None


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a store in it, inside a directory that nothing may write to."""
    inner = tmp_path / "outside" / "inside"
    inner.mkdir(parents=True)
    (inner.parent / "witness").write_text("untouched")
    Store(inner / "store").create()
    Store(inner / "store").index.refresh()
    return inner


@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(0)
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_any_input_ends_in_a_value_or_one_error(target: Target, place: Path) -> None:
    writes = tuple(f"inside/{path}" for path in target.writes)
    before = snapshot(place.parent, writes)
    inputs = list(target.seeds)
    chance = random.Random(f"{SEED} {target.name}")
    for number in range(max(20, INPUTS // target.cost)):
        data = inputs[number] if number < len(inputs) else mutate(chance, target.seeds)
        fault = attempt(target, data, place)
        assert fault is None, f"SEED={SEED} input {number}: {data[:2000]!r}\n{fault}"
    assert snapshot(place.parent, writes) == before


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_every_sound_input_is_taken(target: Target, place: Path) -> None:
    """A reader that refuses everything would pass the rest."""
    if target.name in ("name", "artifact name", "index", "index part"):
        pytest.skip("its inputs are not all sound")
    fine = 0
    for seed in target.seeds:
        try:
            target.read(seed, place)
            fine += 1
        except target.errors:
            continue
    assert fine >= 1


words = st.text(max_size=20) | st.integers() | st.floats() | st.none() | st.booleans()
values = st.recursive(words, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
@settings(max_examples=max(10, INPUTS // 10), suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=200) | values.map(lambda value: json.dumps(value).encode()))
def test_what_looks_like_nothing_sound_is_one_error(target: Target, place: Path, data: bytes) -> None:
    fault = attempt(target, data, place)
    assert fault is None, f"{data!r}\n{fault}"
