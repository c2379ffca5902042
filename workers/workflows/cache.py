# SPDX-License-Identifier: Apache-2.0
"""Prepared files by what they depend on: `CACHE_DIR/<kind>/<digest of the key>/` with the file and `manifest.json`.

An entry appears by one rename, so a reader sees all of it or nothing, and of two builders one wins. The file's sha256
is checked on every use: an entry that a killed process or a bad disk left damaged is built again. So is one that
another user owns or may write: some of these files are code.
"""

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from typing import Any, Callable, Dict, Iterator, List, Optional

from farm.contract.canonical import canonical_json, sha256_file, short_digest
from workers.workflows.errors import NotPrepared, WorkflowError
from workers.workflows.keys import described, differing, nearest

MANIFEST = "manifest.json"
_TRIES = 5
#: Beside the kinds; no kind begins with a dot.
_LOCKS = ".locks"
_FIELDS = {"kind", "key", "file", "sha256", "size_bytes", "build_s", "total_build_s", "facts"}

#: Makes the file at the path given and returns facts about it, plain JSON.
Build = Callable[[str], Dict[str, Any]]


@dataclass(frozen=True)
class CachedFile:
    """A prepared file. `build_s` is what making it took, `total_build_s` with all that it was made from.

    `manifest` is the path of what is kept about it.
    """

    kind: str
    path: str
    sha256: str
    size_bytes: int
    build_s: float
    total_build_s: float
    facts: Dict[str, Any]
    cached: bool = True
    manifest: Optional[str] = None


def recorded_bytes(entry: CachedFile) -> bytes:
    """The bytes of a file that is code: held against the recorded digest, and then loaded instead of the file.

    Raises:
        WorkflowError: they are not those that were recorded.
    """
    with open(entry.path, "rb") as stream:
        content = stream.read()
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise WorkflowError(
            "the {} {} is not the one that was recorded".format(entry.kind, entry.path),
            "It is not loaded, because an engine is code. Find out what writes to the worker's cache.",
            "engine-not-recorded",
        )
    return content


class Cache:
    """`writable` is False while measuring: then a missing entry is an error, never a reason to build.

    `clock` gives monotonic nanoseconds; the runner passes its own.
    """

    def __init__(self, root: str, writable: bool, clock: Callable[[], int]) -> None:
        self.root = root
        self.writable = writable
        self._clock = clock

    def fetch(
        self,
        kind: str,
        key: Dict[str, Any],
        name: str,
        build: Build,
        ready: Optional[Callable[[], Any]] = None,
        upstream_s: Optional[Callable[[], float]] = None,
    ) -> CachedFile:
        """Return the file called `name` of the entry for `key`, made by `build` unless a good one is there.

        Both callables run only when the file has to be made: `ready` before the clock starts, for what the build needs
        and is not part of it; `upstream_s` after, for the build time of what the file was made from.

        Raises:
            NotPrepared: the cache is not writable and holds no good entry.
            whatever `build` raises.
        """
        final = os.path.join(self.root, kind, short_digest(key, 24))
        found = _read(final, kind, key)
        if found is not None:
            return found
        if not self.writable:
            raise NotPrepared(
                "no good {} is in the cache for this job: {}; {}".format(kind, final, self._why(final, kind, key)),
                "Measuring never prepares. Run the job again: its prepare step comes first and rebuilds the file.",
            )
        with self._alone(kind, key):
            # Another job of this host may have been at it: what takes minutes is made once, not twice at a time.
            found = _read(final, kind, key)
            if found is not None:
                return found
            if ready is not None:
                ready()
            return self._make(final, kind, key, name, build, upstream_s)

    @contextlib.contextmanager
    def _alone(self, kind: str, key: Dict[str, Any]) -> Iterator[None]:
        """Hold the kernel's lock on an entry while it is made. It dies with its holder; how long to wait for it is the
        limit of the whole stage. Where there are no locks, two may build, and one of them wins."""
        place = os.path.join(self.root, _LOCKS)
        os.makedirs(place, exist_ok=True)
        with open(os.path.join(place, "{}-{}".format(kind, short_digest(key, 24))), "ab") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                    raise
            yield

    def keys(self, kind: str) -> List[Dict[str, Any]]:
        """The keys of all entries of a kind, good or not, in no order."""
        found = []
        for path in glob.glob(os.path.join(glob.escape(self.root), kind, "*", MANIFEST)):
            try:
                with open(path, encoding="utf-8") as stream:
                    found.append(json.load(stream)["key"])
            except (OSError, ValueError, TypeError, KeyError):
                continue
        return [key for key in found if isinstance(key, dict)]

    def _why(self, final: str, kind: str, key: Dict[str, Any]) -> str:
        """Why there is no good entry, in words."""
        if os.path.isdir(final):
            try:
                _checked(final, kind, key)
            except (OSError, ValueError, TypeError) as error:
                return "the one there is not used: {}".format(error)
        return "the nearest differs in " + described(nearest(key, self.keys(kind)))

    def _make(
        self,
        final: str,
        kind: str,
        key: Dict[str, Any],
        name: str,
        build: Build,
        upstream_s: Optional[Callable[[], float]],
    ) -> CachedFile:
        os.makedirs(os.path.dirname(final), exist_ok=True)
        temporary = tempfile.mkdtemp(prefix=".making-", dir=os.path.dirname(final))
        try:
            begin = self._clock()
            facts = build(os.path.join(temporary, name))
            build_s = (self._clock() - begin) / 1e9
            total_s = build_s + (upstream_s() if upstream_s else 0.0)
            _write_manifest(temporary, kind, key, name, build_s, total_s, facts)
            mine = _install(temporary, final, kind, key)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        found = _read(final, kind, key)
        if found is None:
            raise WorkflowError(
                "the cache entry {} could not be kept: {}".format(final, self._why(final, kind, key)),
                "Look for a full or failing disk, for something that deletes from the cache while jobs run, or for a "
                "file system that does not keep owners and modes.",
                "cache-unusable",
            )
        return replace(found, cached=not mine)


def _install(temporary: str, final: str, kind: str, key: Dict[str, Any]) -> bool:
    """Rename `temporary` to `final`; False when another process had a good entry there first."""
    for _ in range(_TRIES):
        try:
            os.rename(temporary, final)
            return True
        except OSError:
            if _read(final, kind, key) is not None:
                return False
            _discard(final)
    return False


def _discard(final: str) -> None:
    """Take a damaged entry away by a rename, so that nobody sees half of it go."""
    aside = tempfile.mkdtemp(prefix=".damaged-", dir=os.path.dirname(final))
    try:
        os.rename(final, os.path.join(aside, "entry"))
    except OSError:
        pass  # Another process took it away, or put a good one there: the next try tells.
    shutil.rmtree(aside, ignore_errors=True)


def _write_manifest(
    directory: str, kind: str, key: Dict[str, Any], name: str, build_s: float, total_s: float, facts: Dict[str, Any]
) -> None:
    path = os.path.join(directory, name)
    manifest = {
        "kind": kind,
        "key": key,
        "file": name,
        "sha256": sha256_file(path),
        "size_bytes": os.path.getsize(path),
        "build_s": build_s,
        "total_build_s": total_s,
        "facts": facts,
    }
    with open(os.path.join(directory, MANIFEST), "w", encoding="utf-8") as stream:
        json.dump(manifest, stream, indent=1, sort_keys=True, allow_nan=False)


class UnfitEntry(ValueError):  # noqa: N818 - it says what is the matter
    """An entry that must not be used, and why."""


def _read(directory: str, kind: str, key: Dict[str, Any]) -> Optional[CachedFile]:
    """The entry if it is whole, is for this key and its file has its digest; else None."""
    try:
        return _checked(directory, kind, key)
    except (OSError, ValueError, TypeError):
        return None


def _checked(directory: str, kind: str, key: Dict[str, Any]) -> CachedFile:
    _refuse_others(directory)
    kept = os.path.join(directory, MANIFEST)
    manifest = read_manifest(kept, kind)
    if canonical_json(manifest["key"]) != canonical_json(key):
        raise UnfitEntry("it was made for something else: " + described(differing(key, manifest["key"])))
    return verified(manifest, os.path.join(directory, os.path.basename(manifest["file"])), kept)


def read_manifest(path: str, kind: str) -> Dict[str, Any]:
    """What is kept about an entry of that kind.

    Raises:
        ValueError: it is no manifest of this version of the farm.
        OSError: it cannot be read.
    """
    with open(path, encoding="utf-8") as stream:
        manifest = json.load(stream)
    if not isinstance(manifest, dict) or set(manifest) != _FIELDS or manifest["kind"] != kind:
        raise UnfitEntry("its manifest is not one of this version of the farm")
    return manifest


def verified(manifest: Dict[str, Any], path: str, kept: str) -> CachedFile:
    """The entry whose manifest lies at `kept` and whose file at `path`.

    Raises:
        ValueError: the file has other bytes than the manifest says.
        OSError: it cannot be read.
    """
    if sha256_file(path) != manifest["sha256"]:
        raise UnfitEntry("its file has other bytes than those that were recorded")
    return CachedFile(
        kind=manifest["kind"],
        path=path,
        sha256=manifest["sha256"],
        size_bytes=manifest["size_bytes"],
        build_s=manifest["build_s"],
        total_build_s=manifest["total_build_s"],
        facts=manifest["facts"],
        manifest=kept,
    )


def _refuse_others(directory: str) -> None:
    """Nobody but this user may have written the entry: then its manifest is the farm's own word."""
    found = os.stat(directory)
    if found.st_uid != os.geteuid():
        raise UnfitEntry("it belongs to user {}, not to this one, {}".format(found.st_uid, os.geteuid()))
    if found.st_mode & 0o022:
        raise UnfitEntry("other users may write to it (mode {:o})".format(found.st_mode & 0o777))
