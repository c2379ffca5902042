# SPDX-License-Identifier: Apache-2.0
"""The worker's Celery application: `celery -A workers.app worker` (or `inspect`, `flower`) works as anywhere.

`app` is made when it is first asked for, from the farm's settings: importing this module touches nothing.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

from celery import Celery, signals
from celery.worker.control import Panel
from kombu import Exchange, Queue

from farm.broker.celery_app import make_app
from farm.broker.connection import broker_url
from farm.contract.names import device_queue
from farm.errors import FarmError
from farm.settings import load_settings
from workers import tasks
from workers.daemon.service import Service

_UID = "inferfarm-worker"

#: What `celery inspect` and Flower may ask of a worker; shutting down, revoking and changing queues are not among it.
REMOTE_CONTROL = frozenset(
    {"ping", "hello", "heartbeat", "enable_events", "clock", "stats", "active", "reserved", "scheduled", "revoked"}
    | {"registered", "active_queues", "query_task", "conf"}
)


def build(service: Service) -> Celery:
    """Make the application of one worker: its one task, its one queue, and the worker's life on Celery's signals.

    Raises:
        UnavailableError: there is no broker.
    """
    app = make_app(service.settings, broker_url(service.settings))
    device_id = service.device.device_id
    app.conf.broker_transport_options |= {
        # Of its own, so that no worker puts back what another has taken, and its user needs no other's queue.
        "unacked_key": f"unacked.{device_id}",
        "unacked_index_key": f"unacked_index.{device_id}",
        "unacked_mutex_key": f"unacked_mutex.{device_id}",
    }
    queue = device_queue(device_id)
    app.conf.update(
        task_default_queue=queue,
        # A message only wakes: to note each as taken and then as done would be two writes to disk before the claim.
        task_queues=[Queue(queue, Exchange(queue, type="direct"), routing_key=queue, no_ack=True)],
        worker_concurrency=1,
        worker_pool="prefork",
        # A slow board forks slowly; the default of 4 s makes the pool kill its own child.
        worker_proc_alive_timeout=60.0,
    )
    tasks.register(app, service)
    _limit_remote_control()
    _connect_signals(service)
    return app


def _limit_remote_control() -> None:
    """Leave of Celery's remote control what only looks. The farm has words of its own for the rest, with a login."""
    for name in set(Panel.data) - REMOTE_CONTROL:
        Panel.data.pop(name)


def _connect_signals(service: Service) -> None:
    handlers = {
        signals.celeryd_init: lambda **_: _start(service),
        signals.worker_process_init: lambda **_: service.enter_child(),
        signals.worker_process_shutdown: lambda **_: service.leave_child(),
        signals.worker_ready: lambda **_: service.begin_heartbeat(),
        signals.worker_shutting_down: lambda **_: service.begin_to_end(),
        signals.worker_shutdown: lambda **_: service.stop(),
    }
    for signal, handler in handlers.items():
        # Celery's signals are global: a second application in this process takes the first one's place.
        signal.disconnect(dispatch_uid=_UID)
        signal.connect(handler, weak=False, dispatch_uid=_UID)


def _start(service: Service) -> None:
    """Start the service, or end the process: Celery only logs exceptions of its signals' handlers."""
    try:
        service.start()
    except FarmError as error:
        sys.stderr.write(f"Error: {error.message}\n" + (f"  {error.hint}\n" if error.hint else ""))
        raise SystemExit(error.exit_code) from error


@cache
def _default_app() -> Celery:
    return build(Service(load_settings()))


def __getattr__(name: str) -> Any:
    if name == "app":
        return _default_app()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
