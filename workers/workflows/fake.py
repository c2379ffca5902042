# SPDX-License-Identifier: Apache-2.0
"""No model at all: a known latency, and on request any way in which a run can go wrong. Standard library only.

It is how the farm is tested, so it does for real what its options name: it crashes, hangs, floods its log, leaves
children behind. It alone among the workflows reads a clock, to keep the latency it promises.
"""

import os
import signal
import subprocess
import sys
import time
from typing import Any, Callable, Dict, List, Tuple

from farm.contract.names import RESULT_FILE
from farm.contract.run import STAGES
from workers.workflows import datasets
from workers.workflows.base import Context, Lane, Workflow
from workers.workflows.cache import CachedFile
from workers.workflows.errors import Unsupported
from workers.workflows.fake_log import ExecutionLog
from workers.workflows.layers import LayerProfiler, Observed, Step

_PREPARE_STAGES = ("load_model", "export", "calibrate", "build", "reference")
_STEP_BYTES = 64 * 1024 * 1024
#: Where no limit is set, memory is taken up to here, so that the machine lives.
_MOST_BYTES = 1024 * 1024 * 1024
_NOISE_BYTES = 5 * 1024 * 1024
_CHILD_LIFE_S = 600
#: The rest of a latency is spun: a sleep wakes up late by about this much.
_SPIN_NS = 300_000


class Fake(Workflow):
    """Behaves as `options` say; see the catalogue for them."""

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        options = ctx.job.options
        latency_ms = _number(options.get("latency_ms", 1.0), "latency_ms") * _pace(options.get("pace_file"))
        self._latency_ns = int(latency_ms * 1e6)
        self._behaviour = options.get("behaviour", "ok")
        self._stage = options.get("stage", "measure")
        if self._behaviour not in _BEHAVIOURS:
            raise Unsupported("the fake workflow has no behaviour {!r}".format(self._behaviour))
        if self._stage not in STAGES:
            raise Unsupported("there is no stage {!r}".format(self._stage))
        first = _number(options.get("from_batch", 1), "from_batch")
        reached = ctx.request.batch_size >= first if ctx.request.batch_size else first <= 1
        self._armed = self._behaviour != "ok" and (reached or self._stage in _PREPARE_STAGES)
        self._children: List[int] = []
        self._log = ExecutionLog(ctx.request)

    def setup(self) -> None:
        """Nothing to import."""
        self._log.start()
        self._act()

    def prepare(self) -> None:
        """Go through every stage of a prepare, and make one small file, so that artifacts are exercised."""
        for stage in _PREPARE_STAGES:
            with self.ctx.stage(stage):
                self._act()
                if stage == "build":
                    self._engine()

    def find(self) -> None:
        """A measure needs the prepared file only where that has the pace."""
        if "engine_pace_file" in self.ctx.job.options:
            with open(self._engine().path, encoding="utf-8") as stream:
                self._latency_ns = int(self._latency_ns * float(stream.read().rpartition("pace ")[2]))

    def load(self) -> None:
        """There is nothing to load."""
        self._act()

    def host_inputs(self, count: int) -> List[Any]:
        """Placeholders: one number for each input."""
        return list(range(count))

    def input_bytes(self) -> int:
        """Placeholders have no size."""
        return 0

    def to_device(self, host_input: Any) -> Any:
        """The placeholder itself."""
        return host_input

    def infer(self, batch: Any) -> None:
        """Take the promised time, and misbehave first where that is asked for."""
        end = time.perf_counter_ns() + self._latency_ns
        if self._armed:
            self._act()
        left = end - time.perf_counter_ns() - _SPIN_NS
        if left > 0:
            time.sleep(left / 1e9)
        while time.perf_counter_ns() < end:
            pass

    def lanes(self, count: int) -> List[Lane]:
        """Each takes the promised time by itself, as if the device had room for all of them."""
        return [FakeLane(self) for _ in range(count)]

    def outputs(self) -> List[Tuple[str, Any]]:
        """None; for an accuracy or a pipeline, the scores of a model that takes every image for one of class 0."""
        self._act()
        if self.ctx.request.mode not in ("accuracy", "pipeline"):
            return []
        import numpy as np

        scores = np.zeros((self.ctx.batch_size, datasets.classes(self.ctx.job)), dtype=np.float32)
        scores[:, 0] = 1
        return [("scores", scores)]

    def layer_profiler(self) -> LayerProfiler:
        """Of a model with two layers."""
        self._act()
        return FakeLayers()

    def effective(self) -> Dict[str, Any]:
        """What was asked for: there is nothing that could differ. `execution` ties a record to the execution log."""
        logged = {"execution": self._log.token} if self._log.token else {}
        return {
            **logged,
            "precision": self.ctx.job.precision,
            "threads": self.ctx.threads,
            "provider": "fake",
            "device": self.ctx.request.device.kind,
            "grandchildren": self._children,
        }

    def engine_bytes(self) -> int:
        """Size of the file that `prepare` makes."""
        return len(self._content())

    def close(self) -> None:
        """Nothing to free."""
        self._act()
        self._log.end()

    def _engine(self) -> CachedFile:
        pace_file = self.ctx.job.options.get("engine_pace_file")

        def build(path: str) -> Dict[str, Any]:
            with open(path, "wb") as stream:
                stream.write(self._content())
                if pace_file is not None:
                    # The time, as a real builder's choices, makes each build another file.
                    stream.write("built at {}, pace {}".format(time.time_ns(), _pace(pace_file)).encode("utf-8"))
            return {}

        job = self.ctx.job
        key = {"model": job.model.name, "precision": job.precision}
        if pace_file is not None:
            key["pace_file"] = pace_file
        return self.ctx.cached("fake_engine", key, "engine.bin", build)

    def _content(self) -> bytes:
        return "fake engine of {} in {}\n".format(self.ctx.job.model.name, self.ctx.job.precision).encode("utf-8")

    def _act(self) -> None:
        if not self._armed or self.ctx.stage_name() != self._stage:
            return
        self._armed = False
        _BEHAVIOURS[self._behaviour](self)


class FakeLayers(LayerProfiler):
    """Two rows of equal time, which is what each step took, in equal parts."""

    source = "fake"

    def observe(self, step: Step, count: int) -> List[Observed]:
        """Each step, shared out."""
        rows = [
            Observed(name, "Nothing", "fake", (name,), calls=count) for name in ("/first/Nothing", "/second/Nothing")
        ]
        for _ in range(count):
            begin = time.perf_counter_ns()
            step()
            half = (time.perf_counter_ns() - begin) / 2
            for row in rows:
                row.times_ns.append(half)
        return rows


class FakeLane(Lane):
    """One of several requests in flight; misbehaving, too, is done once."""

    def __init__(self, fake: Fake) -> None:
        self._fake = fake

    def to_device(self, host_input: Any) -> Any:
        """The placeholder itself."""
        return host_input

    def infer(self, batch: Any) -> None:
        """As the workflow does."""
        self._fake.infer(batch)

    def outputs(self) -> List[Tuple[str, Any]]:
        """As the workflow has them."""
        return self._fake.outputs()


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise Unsupported("option {} is a number that is not negative, not {!r}".format(what, value))
    return float(value)


def _pace(path: Any) -> float:
    """The factor in a file outside of the job: the same job takes another time, as on a device that has changed."""
    if path is None or not os.path.isfile(path):
        return 1.0
    with open(path, encoding="utf-8") as stream:
        return float(stream.read())


def _raise(fake: Fake) -> None:
    raise RuntimeError("the fake workflow was asked to raise")


def _segfault(fake: Fake) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)
    _hang(fake)  # the signal may take a moment


def _exit_without_result(fake: Fake) -> None:
    os._exit(0)


def _half_result(fake: Fake) -> None:
    with open(os.path.join(fake.ctx.control_dir, RESULT_FILE), "w", encoding="utf-8") as stream:
        stream.write('{"run_id": "' + fake.ctx.request.run_id + '", "outcome": "o')
    os._exit(0)


def _hang(fake: Fake) -> None:
    while True:
        signal.pause()


def _ignore_sigterm(fake: Fake) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _hang(fake)


def _allocate(fake: Fake) -> None:
    """Take memory, touching every page, until the limit of the process (RLIMIT_AS) or 1 GiB."""
    taken: List[bytearray] = []
    while len(taken) * _STEP_BYTES < _MOST_BYTES:
        taken.append(bytearray(b"\x01") * _STEP_BYTES)
    raise MemoryError("the fake workflow took {} bytes without meeting a limit".format(len(taken) * _STEP_BYTES))


def _noise(fake: Fake) -> None:
    line = "noise " * 20 + "\n"
    for stream in (sys.stdout, sys.stderr):
        for _ in range(_NOISE_BYTES // len(line) + 1):
            stream.write(line)
        stream.flush()


def _grandchild(fake: Fake) -> None:
    """Leave two children that live on: one in this process group, one in a session of its own."""
    command = [sys.executable, "-c", "import time; time.sleep({})".format(_CHILD_LIFE_S)]
    for own_session in (False, True):
        child = subprocess.Popen(command, start_new_session=own_session)
        fake._children.append(child.pid)
        child.returncode = 0  # it is left behind on purpose: no warning when this object goes


def _unsupported(fake: Fake) -> None:
    raise Unsupported("the fake workflow was asked to be unsupported", "Choose another behaviour.")


def _out_of_memory(fake: Fake) -> None:
    raise MemoryError("the fake workflow was asked to run out of memory")


_BEHAVIOURS: Dict[str, Callable[[Fake], None]] = {
    "ok": lambda fake: None,
    "raise": _raise,
    "segfault": _segfault,
    "exit_without_result": _exit_without_result,
    "half_result": _half_result,
    "hang": _hang,
    "allocate": _allocate,
    "noise": _noise,
    "grandchild": _grandchild,
    "ignore_sigterm": _ignore_sigterm,
    "unsupported": _unsupported,
    "out_of_memory": _out_of_memory,
}
