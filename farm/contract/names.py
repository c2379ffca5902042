# SPDX-License-Identifier: Apache-2.0
"""Names that more than one process must agree on, and the alphabet names from outside are held to."""

import re

TASK_RUN_JOB = "workers.run_job"
#: Names nothing: what is due is in the nights' documents.
TASK_NIGHTLY = "farm.nightly"
NIGHTLY_QUEUE = "nightly"

#: What the names of devices' Celery queues begin with.
DEVICE_QUEUE = "dev."

#: File names in a run's control directory.
REQUEST_FILE = "request.json"
EVENTS_FILE = "events.jsonl"
RESULT_FILE = "result.json"
LOG_FILE = "runner.log"
EXIT_FILE = "exit.json"
SAMPLES_DIR = "samples"
ARTIFACTS_DIR = "artifacts"

#: Marks every process of a run in its environment, so that a straggler can be found and killed.
DEVICE_ENV = "INFERFARM_DEVICE"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_name(value: str, what: str) -> str:
    """Return `value` if it is safe as a file name, queue name and Redis key part.

    Raises:
        ValueError: naming `what`, the value and the allowed alphabet.
    """
    if not isinstance(value, str) or not _NAME.fullmatch(value) or ".." in value:
        raise ValueError(
            "{} {!r} is not allowed: use 1 to 128 of A-Z a-z 0-9 . _ -, "
            "starting with a letter or digit, without '..'".format(what, _shown(value))
        )
    return value


def _shown(value: object) -> object:
    """As much of a refused name as an error needs: whoever sent it chose its length."""
    return value[:200] if isinstance(value, str) else str(value)[:200]


def check_path(value: str, what: str) -> str:
    """Return `value` if it can be a path of the farm's own files: relative or absolute, in one plain spelling.

    Where the path leads is for `farm.paths` to say; this refuses what has no business in any: control characters and
    NUL, `..`, lone surrogates, characters that are not ASCII (which other characters look like, and which file systems
    spell in several ways), and what is longer than a file system takes.

    Raises:
        ValueError: naming `what` and the value.
    """
    parts = value.split("/") if isinstance(value, str) else []
    fit = 0 < len(value) <= 1024 and all(" " <= c <= "~" and c != chr(92) for c in value) if parts else False
    if not fit or ".." in parts or any(len(part) > 255 for part in parts):
        raise ValueError(
            "{} {!r} is not allowed: use at most 1024 printable ASCII characters, without '..' and backslashes".format(
                what, value[:200] if isinstance(value, str) else value
            )
        )
    return value


def check_sha256(value: str) -> str:
    """Return `value` if it is 64 lower-case hexadecimal digits; raise ValueError otherwise."""
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise ValueError("{!r} is not a SHA-256: 64 digits of 0-9 a-f".format(_shown(value)))
    return value


def device_queue(device_id: str) -> str:
    """The Celery queue that feeds one device."""
    return DEVICE_QUEUE + device_id


def slug(text: str) -> str:
    """Turn a product or host name into a safe name: `AMD EPYC 9354P` -> `amd-epyc-9354p`."""
    cleaned = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return cleaned[:100] or "unknown"


_TURN = re.compile(r".+\.cmp-[0-9a-f]{8}-(base|new)")


def turn_name(stem: str, tag: str, side: str) -> str:
    """The name of the sweep that is one side of a comparison that is measured, a process at a time."""
    return "{}.cmp-{}-{}".format(stem, tag, side)


def is_turn(sweep_name: str) -> bool:
    """Whether a sweep is such a side: each of its runs stands for one process of several."""
    return _TURN.fullmatch(sweep_name) is not None
