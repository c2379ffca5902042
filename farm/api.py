# SPDX-License-Identifier: Apache-2.0
"""`from farm import Farm`: the verbs of the command line, for Python. The commands themselves are written on it."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farm.contract.names import check_name
from farm.errors import UnavailableError, UsageError
from farm.settings import Settings, load_settings

if TYPE_CHECKING:
    # What only some verbs need is imported by them: every command waits for what is imported here.
    import redis

    from farm.broker.jobs import JobState, JobStore, JobView, SweepView
    from farm.broker.register import DeviceEntry, Register
    from farm.broker.standing import Held
    from farm.compare.model import Comparison, Rules
    from farm.compare.order import Turn
    from farm.contract.device import Announcement
    from farm.contract.outcome import Outcome
    from farm.contract.record import Record
    from farm.notebook import Records
    from farm.progress import Progress
    from farm.store import Store
    from farm.sweep import SweepSpec

#: Records of cancelled jobs that `cancel` writes itself.
_RECORDED_AT_ONCE = 100


@dataclass(frozen=True)
class Cancelled:
    """What `cancel` did: jobs cancelled at once, and jobs that run and were asked to stop."""

    at_once: int
    asked: int


class Farm:
    """One farm: its broker, its store. Connections are made when first needed.

    Methods raise `farm.errors.UsageError` for what was asked wrongly and `UnavailableError` for what is away.
    """

    def __init__(
        self, settings: Settings | None = None, *, home: Path | None = None, store: Path | None = None
    ) -> None:
        self.settings = settings or load_settings(home=home, store=store)

    @cached_property
    def store(self) -> Store:
        """The store: records, blobs, sweeps, index."""
        from farm.store import Store

        return Store(self.settings.store_dir)

    @cached_property
    def _client(self) -> redis.Redis:
        from farm.broker.connection import connect

        return connect(self.settings)

    @cached_property
    def jobs(self) -> JobStore:
        """The job states in Redis."""
        from farm.broker.jobs import JobStore

        return JobStore(self._client)

    @cached_property
    def register(self) -> Register:
        """The device register in Redis."""
        from farm.broker.register import Register

        return Register(self._client)

    @cached_property
    def regressions(self) -> Any:
        """What changed from night to night: `farm.regressions.Regressions`."""
        from farm.regressions import Regressions

        return Regressions(self.store)

    def plan(self, sweep: Path | str | SweepSpec, *, again: bool = False) -> Any:
        """What `submit` would do, without doing it: `scheduler.submit.Plan` with jobs, refusals and notes."""
        from scheduler.submit import plan

        return plan(_spec(sweep), store=self.store, jobs=self.jobs, register=self.register, again=again)

    def submit(self, sweep: Path | str | SweepSpec, *, priority: int | None = None, again: bool = False) -> Any:
        """Submit a sweep; return `scheduler.submit.Submission`. Twice the same sweep adds nothing, unless `again`."""
        from scheduler.submit import submit

        jobs, register = self.jobs, self.register  # no broker, no traces in the store
        # Never created here: a mount that is away would get a second store below it.
        self.store.check_writable()
        return submit(_spec(sweep), store=self.store, jobs=jobs, register=register, priority=priority, again=again)

    def sweeps(self) -> list[SweepView]:
        """All sweeps that Redis knows, the newest last."""
        return self.jobs.sweeps()

    def find_sweep(self, name: str) -> SweepView:
        """A sweep by id, by unique beginning of its id, or by name (then the newest of that name)."""
        return _find(name, self.sweeps())

    def status(self, sweep: str, *, states: Collection[JobState] = (), limit: int | None = None) -> list[JobView]:
        """The jobs of a sweep, in their order; `states`: only those in one of them.

        `limit`: so many at most, first those at work, then those that went wrong, then those that wait.
        """
        sweep_id = self.find_sweep(sweep).sweep_id
        if not states and limit is None:
            return self.jobs.sweep_jobs(sweep_id)
        from farm.glance import shown_first

        known = self.jobs.states(self.jobs.sweep_job_ids(sweep_id))
        return self.jobs.views(shown_first(known, states, limit))

    def progress(self, sweep: str) -> Progress:
        """How far a sweep is."""
        from farm.progress import sweep_progress

        return sweep_progress(self.status(sweep), time.time())

    def watch(self, sweep: str, *, interval_s: float = 0.25, limit_s: float | None = None) -> Iterator[Progress]:
        """Yield the progress of a sweep until it ends; at most every `interval_s`.

        Raises:
            UnavailableError: it has not ended within `limit_s`.
        """
        from farm.broker.following import Follower
        from farm.progress import sweep_progress

        sweep_id = self.find_sweep(sweep).sweep_id
        deadline = None if limit_s is None else time.monotonic() + limit_s
        follower = Follower(self.jobs, sweep_id)
        while True:
            began = time.monotonic()
            progress = sweep_progress(follower.look(), time.time())
            spent_s = time.monotonic() - began
            yield progress
            if progress.finished:
                return
            if deadline is not None and time.monotonic() > deadline:
                raise UnavailableError(f"sweep {sweep_id} has not ended within {limit_s:.0f} s")
            # Of a very large sweep a look takes longer: half of a processor is enough for it.
            time.sleep(max(interval_s, spent_s))

    def cancel(self, name: str) -> Cancelled:
        """Cancel a sweep (id, beginning or name) or a job (id): what waits at once, what runs as soon as it can."""
        from farm.broker.jobs import JobState
        from farm.retrying import record_cancelled

        ids = [name] if self.jobs.get(name) else self.jobs.sweep_job_ids(self.find_sweep(name).sweep_id)
        answers = list(zip(ids, self.jobs.cancel_all(ids), strict=True))
        now = [job_id for job_id, (_, cancelled) in answers if cancelled]
        # Of many the scheduler writes the records, which they are owed: nobody should wait here for so many files.
        for view in map(self.jobs.get, now if len(now) <= _RECORDED_AT_ONCE else ()):
            if view is not None:
                record_cancelled(self.store, self.jobs, view)
        running = sum(state in (JobState.CLAIMED, JobState.RUNNING) for _, (state, _) in answers)
        return Cancelled(at_once=len(now), asked=running)

    def retry(self, name: str, *, outcomes: Sequence[Outcome] | None = None) -> int:
        """Queue again the runs of a sweep's ended jobs (or of one job) that ended with one of `outcomes`.

        By default with any that a retry may change (`farm.retrying.RETRY_OUTCOMES`). Only those points are measured
        again, under a new generation: old records stay, results show the newest. Returns how many jobs were queued.
        """
        from farm.retrying import RETRY_OUTCOMES, retry

        outcomes = RETRY_OUTCOMES if outcomes is None else outcomes
        job = self.jobs.get(name)
        views = [view for view in ([job] if job else self.status(name)) if view.state.ended]
        return sum(retry(self.store, self.jobs, view, outcomes) for view in views)

    def devices(self) -> list[DeviceEntry]:
        """All devices that ever announced themselves."""
        return self.register.devices()

    def set_device(self, device_id: str, state: str, reason: str | None = None) -> None:
        """Set a device `ready`, `drained` or `quarantined`. One whose canary has shifted and that is ready gets one."""
        from farm import operating

        operating.set_device(self._client, device_id, state, reason)

    def maintenance(
        self, device_id: str, reason: str, *, for_s: float | None = None, until_s: float | None = None
    ) -> None:
        """Put a device into maintenance, for `for_s`, until `until_s` (Unix seconds), or until it is resumed."""
        from farm import operating

        operating.maintain(self._client, device_id, reason, for_s=for_s, until_s=until_s)

    def waiting(self, targets: Iterable[str] | None = None) -> dict[str, str]:
        """Why nothing serves these targets of jobs (`dev:ID`, `cls:NAME`), or those of all that waits."""
        from farm.waiting import why_waiting

        return why_waiting(self.queue_depth() if targets is None else targets, self.devices())

    def queue_depth(self) -> Counter[str]:
        """How many jobs wait at each target (`dev:ID`, `cls:NAME`)."""
        from farm.broker import standing

        return standing.waiting(self._client)

    def held(self) -> list[Held]:
        """The jobs that devices hold, for how long, and how long their leases last."""
        from farm.broker import standing

        return standing.held(self._client, self.jobs)

    def outcomes(self, sweeps: Sequence[SweepView]) -> dict[str, Counter[str]]:
        """Runs of ended jobs by outcome, of as many of the newest of `sweeps` as can be told quickly."""
        from farm.broker import standing

        return standing.outcomes(self._client, sweeps)

    def canary(
        self,
        *devices: str,
        accept: bool = False,
        on_progress: Callable[[Progress], None] = lambda _progress: None,
    ) -> list[DeviceEntry]:
        """Make a canary on these devices now, or on all that take jobs; return their entries once it is judged.

        With `accept`, each begins a new series: how the device is now is taken for right.
        """
        from farm.canaries import ask, wait

        client, entries = self._client, self.devices()
        self.store.create()
        self.store.check_writable()
        return wait(client, ask(client, entries, devices, accept=accept), on_progress)

    def results(self, sweep: str | None = None, *, where: str | None = None, latest: bool = True) -> Any:
        """The records as a flat table (`farm.store.index.Table`); `where` is a SQL condition on its columns."""
        self._check_store()
        self.store.index.refresh()
        return self.store.index.query(self.stored_sweep(sweep), where, latest=latest)

    def records(self, *sweeps: str) -> Records:
        """The records of the sweeps named, or of all: a list, with `to_pandas()` and `to_arrow()`.

        Files that cannot be read come as `BadRecord`.
        """
        from farm.notebook import Records

        self._check_store()
        if not sweeps:
            return Records(self.store.records.iterate())
        ids = [self.stored_sweep(sweep) for sweep in sweeps]
        return Records(record for sweep_id in ids for record in self.store.records.iterate(sweep_id))

    def report(self, *sweeps: str, out_dir: Path, title: str | None = None) -> Any:
        """Write the report of the sweeps named (or of everything) to `out_dir`; return its files."""
        from farm.reporting import report_sweeps

        ids = [str(self.stored_sweep(sweep)) for sweep in sweeps]
        return report_sweeps(self.store, ids, self.records(*sweeps), out_dir, title=title, samples=self.samples)

    def report_paper(self, name: str, *sweeps: str, out_dir: Path) -> Any:
        """Write a paper's tables and figures from the sweeps named (or from everything); return each class's files."""
        from farm.reporting import report_paper

        ids = [str(self.stored_sweep(sweep)) for sweep in sweeps]
        return report_paper(name, self.store, ids, self.records(*sweeps), out_dir, samples=self.samples)

    def report_night(self, night: str | None = None, *, out_dir: Path) -> Any:
        """Write the report of a night (its UTC date, or the newest) to `out_dir`; return its files."""
        from farm.reporting import report_night

        self._check_store()
        return report_night(self.store, night, out_dir, samples=self.samples)

    def publish_nights(self, root: Path, nights: Iterable[str] | int = 1) -> Any:
        """Write the index of nights, the pages of series and these nights' reports below `root`; return the index.

        Args:
            nights: their UTC dates, or how many of the newest are to have a report; those that have one keep it.
        """
        from farm.reporting import publish_nights

        self._check_store()
        return publish_nights(self.store, root, nights, samples=self.samples)

    def samples(self, record: Record) -> list[int] | None:
        """The latency samples of a record in ns, all of them, process after process; None when it has none."""
        import array
        import sys

        refs = [ref for ref in record.samples if ref.kind == "samples:latency"]
        values = array.array("q")
        for ref in refs:
            values.frombytes(self.store.blobs.read(ref.sha256))
        if sys.byteorder == "big":
            values.byteswap()
        return values.tolist() if refs else None

    def probe(self) -> list[Announcement]:
        """This machine's devices and stacks, as workers would announce them. Takes seconds: it starts each stack."""
        from workers.daemon.probe import announcements

        return announcements(self.settings)

    def run(
        self,
        sweep: Path | str | SweepSpec,
        *,
        again: bool = False,
        devices: Sequence[str] = (),
        on_progress: Callable[[Progress], None] = lambda _progress: None,
        say: Callable[[str], None] = lambda _text: None,
    ) -> Any:
        """Measure a sweep on this machine: start a farm, submit, wait, stop; return the `Submission`.

        `devices` are ids of this machine's devices, `gpus` or `all`: one worker each; none: the settings' choice.
        """
        spec = _spec(sweep)
        self.store.create()
        self.store.check_writable()
        with self._local(devices, say):
            submission = self.submit(spec, again=again)
            if submission.total:
                for progress in self.watch(submission.sweep_id):
                    on_progress(progress)
        return submission

    def compare(
        self, base: str, new: str, *, rules: Rules | None = None, where: str | None = None, repeats: bool = False
    ) -> Comparison:
        """Compare what is recorded: is `new` faster than `base`? Each is a run id, a sweep, `last` or `previous`.

        docs/comparing.md has the rules. With `repeats`, a sweep stands for all repeats of it.
        """
        from farm.compare import compare
        from farm.comparing import Question, records_of, require_cells

        self._check_store()
        asked = Question(base, new, where, repeats)
        return require_cells(compare(*records_of(asked, self.store, lambda name: str(self.stored_sweep(name))), rules))

    def explained(self, run: str) -> Any:
        """What a run tells of where its time goes: as `layers`; with `study: pipeline` its record and what it found."""
        from farm.explaining import explained

        self._check_store()
        return explained(run, self.store, lambda name: str(self.stored_sweep(name)))

    def layers(self, run: str) -> Any:
        """The layers of a run that was measured with `profile: layers`: `farm.explain.Profiled`. By id, or by sweep."""
        from farm.explaining import profiled

        self._check_store()
        return profiled(run, self.store, lambda name: str(self.stored_sweep(name)))

    def explain(self, base: str, new: str) -> Any:
        """Which layers make `new` slower or faster than `base`, both as for `layers`: `farm.explain.Difference`."""
        from farm.explain import compare_layers

        return compare_layers(self.layers(base).table, self.layers(new).table)

    def compare_measured(
        self,
        base: Path | str | SweepSpec,
        new: Path | str | SweepSpec,
        *,
        processes: int = 5,
        seed: int = 0,
        again: bool = False,
        devices: Sequence[str] | None = (),
        rules: Rules | None = None,
        on_turn: Callable[[Turn, int], None] = lambda _turn, _left: None,
        on_progress: Callable[[Progress], None] = lambda _progress: None,
        say: Callable[[str], None] = lambda _text: None,
    ) -> Comparison:
        """Measure two sweeps alternately on this machine, each `processes` times, and compare them.

        What is recorded already of this comparison is not measured again, unless `again`. `devices` as for `run`; None
        uses a farm that runs already. `on_turn` hears of each turn before it, and how many are left with it.
        """
        from farm.compare import compare
        from farm.comparing import require_cells, session_turns, turn_records, unmeasured

        self.store.create()
        self.store.check_writable()
        made = session_turns(self.store, _spec(base), _spec(new), processes, seed=seed, again=again)
        left = unmeasured(made, self.store)
        with self._local(devices if left else None, say):
            self._take_turns(left, on_turn, on_progress)
        return require_cells(compare(*turn_records(made, self.store), rules))

    def _take_turns(
        self, left: Sequence[Turn], on_turn: Callable[[Turn, int], None], on_progress: Callable[[Progress], None]
    ) -> None:
        for i, turn in enumerate(left):
            on_turn(turn, len(left) - i)
            if self.submit(turn.spec).total:
                # A turn takes seconds: to look at every quarter of one would add a tenth to a session.
                for progress in self.watch(turn.spec.sweep_id, interval_s=0.1):
                    on_progress(progress)

    def _local(
        self, devices: Sequence[str] | None, say: Callable[[str], None]
    ) -> contextlib.AbstractContextManager[Any]:
        """A farm on this machine; for None, nothing."""
        if devices is None:
            return contextlib.nullcontext()
        from farm.local import LocalFarm
        from workers.daemon.probe import named_devices

        return LocalFarm(self.settings, say=say, devices=named_devices(self.settings, devices))

    def _check_store(self) -> None:
        if not self.store.root.is_dir():
            raise UnavailableError(
                f"there is no store at {self.store.root}: nothing has been measured into it",
                hint="`farm run SWEEP.yaml` makes one; FARM_STORE or --store says where another one is.",
            )

    def stored_sweep(self, sweep: str | None) -> str | None:
        """A sweep's id from what the store holds: results can be read without a broker."""
        from farm.broker.views import SweepView

        if sweep is None:
            return None
        found = [
            SweepView(doc["sweep_id"], doc["name"], 0, doc.get("submitted_at", 0.0), {})
            for doc in self.store.sweeps.list()
        ]
        return _find(sweep, sorted(found, key=lambda view: view.submitted_at)).sweep_id


def _spec(sweep: Path | str | SweepSpec) -> SweepSpec:
    from farm.sweep import SweepSpec, load_sweep

    return sweep if isinstance(sweep, SweepSpec) else load_sweep(Path(sweep))


def _find(name: str, sweeps: Sequence[SweepView]) -> SweepView:
    try:
        check_name(name, "the sweep")
    except ValueError as error:
        raise UsageError(str(error)) from error
    exact = [s for s in sweeps if s.sweep_id == name] or [s for s in sweeps if s.name == name][-1:]
    matches = exact or [s for s in sweeps if s.sweep_id.startswith(name)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UsageError(f"{name!r} begins several sweeps: {', '.join(s.sweep_id for s in matches)}")
    known = ", ".join(s.sweep_id for s in sweeps[-5:]) or "none yet"
    raise UsageError(f"no sweep or job {name!r}", hint=f"The latest sweeps: {known}. `farm status` lists them.")
