# SPDX-License-Identifier: Apache-2.0
"""kombu's Redis transport with a porter: what is no message of the farm's is logged and dropped before Celery sees it.

Celery's worker ends at the first message that is not JSON, parks one with an ETA, and kills its own child by a
message's time limit. Whoever may write to a queue could do all of that; a job's message needs none of it.
"""

from __future__ import annotations

import base64
import json
import logging
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis
from kombu.transport.virtual import Empty

from farm.contract.names import DEVICE_QUEUE, NIGHTLY_QUEUE, TASK_NIGHTLY, TASK_RUN_JOB

log = logging.getLogger(__name__)

#: No message of ours comes near: it holds a job's id.
MAX_BODY = 16_384
_SHOWN = ("shadow", "root_id", "parent_id", "argsrepr", "kwargsrepr", "origin")
#: Headers that would make Celery do more than run the task once, now; as they stand in a message of ours.
_HARMLESS: dict[str, Any] = {"eta": None, "expires": None, "timelimit": [None, None], "group": None, "retries": 0}


def checked(message: Any, task: str = TASK_RUN_JOB) -> dict[str, Any]:
    """A message from a device's queue, or from the nightly's, made anew of the parts of it that the farm uses.

    Raises:
        ValueError: it is none of the farm's, and why.
    """
    if not isinstance(message, dict):
        raise ValueError("not a JSON object")
    headers, properties = message.get("headers"), message.get("properties")
    if not isinstance(headers, dict) or not isinstance(properties, dict):
        raise ValueError("no headers or no properties")
    kind = (message.get("content-type"), message.get("content-encoding"), properties.get("body_encoding"))
    if kind != ("application/json", "utf-8", "base64"):
        raise ValueError(f"content of the type {str(kind[0])[:80]!r}, {str(kind[1])[:20]!r}: only JSON is read")
    if headers.get("task") != task:
        raise ValueError(f"the task {str(headers.get('task'))[:80]!r}; there is only {task}")
    if not isinstance(headers.get("id"), str) or not isinstance(properties.get("delivery_tag"), str):
        raise ValueError("no id or no delivery tag")
    shown = {key: headers[key] for key in _SHOWN if isinstance(headers.get(key), str)}
    return {
        "body": _checked_body(message.get("body"), names_a_job=task == TASK_RUN_JOB),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"lang": "py", "task": task, "id": headers["id"], **shown, **_HARMLESS},
        "properties": {
            "correlation_id": headers["id"],
            "delivery_tag": properties["delivery_tag"],
            "delivery_info": _checked_delivery(properties.get("delivery_info")),
            "delivery_mode": 2,
            "priority": 0,
            "body_encoding": "base64",
        },
    }


def _checked_body(body: Any, *, names_a_job: bool) -> str:
    """The body with the job's name and nothing else, such as tasks to send when this one has ended.

    The nightly's message names nothing.
    """
    if not isinstance(body, str) or len(body) > MAX_BODY:
        raise ValueError("no body, or one that is too long")
    try:
        content = json.loads(base64.b64decode(body, validate=True))
    except RecursionError as error:
        raise ValueError("a body that is nested too deep") from error
    args = content[0] if isinstance(content, list) and len(content) == 3 else None
    if not isinstance(args, list) or content[1] != {} or not all(isinstance(arg, str) for arg in args):
        raise ValueError("a body that is no list of names")
    if len(args) != int(names_a_job):
        raise ValueError("a body that does not name one job" if names_a_job else "a body that names something")
    return base64.b64encode(json.dumps([args, {}, {}]).encode()).decode()


def _checked_delivery(info: Any) -> dict[str, str]:
    fields = {key: info.get(key) for key in ("exchange", "routing_key")} if isinstance(info, dict) else {}
    if not fields or not all(isinstance(value, str) for value in fields.values()):
        raise ValueError("no delivery information")
    return {key: str(value) for key, value in fields.items()}


class Channel(redis.Channel):  # type: ignore[misc]
    """A channel that survives bytes which are not JSON."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except (ValueError, RecursionError) as error:
            log.warning("a message that is not JSON was dropped: %.200s", error)
            raise Empty from None


class Transport(redis.Transport):  # type: ignore[misc]
    """A transport that hands on no message to a device's queue but those that name a job, to the nightly's but ticks."""

    Channel = Channel

    def _deliver(self, message: Any, queue: str) -> None:
        if queue.startswith(DEVICE_QUEUE) or queue == NIGHTLY_QUEUE:
            try:
                message = checked(message, TASK_NIGHTLY if queue == NIGHTLY_QUEUE else TASK_RUN_JOB)
            except ValueError as error:
                log.warning("a message in queue %s was dropped: %s", queue, error)
                return
        super()._deliver(message, queue)


def install() -> None:
    """Make this the transport of `redis://` and `rediss://` in this process."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:Transport"
