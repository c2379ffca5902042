# SPDX-License-Identifier: Apache-2.0
"""Runs under a profiler: after a point was measured, each in a process of its own, kept beside the point's record.

What comes of them never changes what was measured: one that fails is told in the record and takes nothing from it.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from farm.contract.canonical import sha256_file
from farm.contract.codec import to_json
from farm.contract.layers import LAYERS_ARTIFACT, PICTURE_ARTIFACT, TIMELINE_ARTIFACT, TIMELINE_PART
from farm.contract.outcome import Outcome
from farm.contract.record import BlobRef
from farm.contract.run import ArtifactFile
from farm.explain.timeline import assemble, facts, picture
from farm.paths import inside
from workers.daemon.collect import Collected, RunFacts
from workers.daemon.control import shorten_log
from workers.daemon.ladder import Run
from workers.daemon.spool import BlobFile

_KEPT = (LAYERS_ARTIFACT, TIMELINE_PART)


def with_profiles(
    collected: Collected, what: Run, launch: Callable[[Run], RunFacts], stopped: Callable[[], bool]
) -> Collected:
    """The record of a point with the profiles that its job asks for; of a point that is not ok there is none.

    Raises:
        OSError: a file that is there cannot be read.
    """
    for kind in collected.record.job.profile:
        if collected.record.outcome is not Outcome.OK or stopped():
            return collected
        collected = _with(collected, kind, launch(Run(kind, what.batch_size)))
    return collected


def _with(collected: Collected, kind: str, run: RunFacts) -> Collected:
    record, result = collected.record, run.read.result
    refs, files = list(record.artifacts), list(collected.files)
    told: dict[str, Any] = {"outcome": str(run.outcome), "started_at": run.started_at, "finished_at": run.finished_at}
    if run.failure is not None:
        told["failure"] = to_json(run.failure)
    if result is not None:
        told |= result.effective.get("layers_profile", {})
        for path, artifact in _sound(run, result.artifacts):
            kept = {artifact.kind: path}
            if artifact.kind == TIMELINE_PART:
                try:
                    kept, more = _timeline(run, path)
                except (ValueError, KeyError, TypeError) as error:
                    told["failure"] = {"message": f"the runner's part cannot be used: {error!r}"}
                    continue
                told |= more
            for name, file in kept.items():
                sha256 = sha256_file(str(file))
                files.append(BlobFile(file, sha256))
                refs.append(BlobRef(name, sha256, file.stat().st_size))
    log = run.control.log
    if run.outcome is not Outcome.OK and log.is_file() and log.stat().st_size:
        shorten_log(run.control)
        sha256 = sha256_file(str(log))
        files.append(BlobFile(log, sha256))
        refs.append(BlobRef(f"log:{kind}", sha256, log.stat().st_size))
    profiles = {**record.provenance.get("profiles", {}), kind: told}
    changed = replace(record, artifacts=refs, provenance={**record.provenance, "profiles": profiles})
    return Collected(changed, files)


def _timeline(run: RunFacts, path: Path) -> tuple[dict[str, Path], dict[str, Any]]:
    """The trace, of the runner's part, its stages and the telemetry, and its picture; and what the record keeps."""
    part = json.loads(path.read_bytes())
    stages = run.read.result.stages if run.read.result else []
    samples = run.trace.samples if run.trace else ()
    whole, still = path.with_name("timeline.json.gz"), path.with_name("timeline-picture.json")
    whole.write_bytes(gzip.compress(_compact(assemble(stages, part, samples)), mtime=0))
    still.write_bytes(_compact(picture(stages, part, samples)))
    return {TIMELINE_ARTIFACT: whole, PICTURE_ARTIFACT: still}, facts(part)


def _compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _sound(run: RunFacts, artifacts: list[ArtifactFile]) -> list[tuple[Path, ArtifactFile]]:
    """The profile's own files, where they are what the runner said; what it loaded is the measured run's to tell."""
    found = []
    for artifact in artifacts:
        if artifact.kind in _KEPT:
            path = inside(artifact.path, run.control.path, what="artifact")
            if path.is_file() and sha256_file(str(path)) == artifact.sha256:
                found.append((path, artifact))
    return found
