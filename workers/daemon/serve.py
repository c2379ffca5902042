# SPDX-License-Identifier: Apache-2.0
"""`farm worker`: serve one device of this host in the foreground, until SIGTERM; the running job is finished first."""

from __future__ import annotations

from farm.broker.connection import connect
from farm.contract.names import device_queue
from farm.settings import Settings
from workers.app import build
from workers.daemon.service import Service


def serve(settings: Settings, device_id: str | None = None) -> None:
    """Serve a device (by default the settings' `device`, else this host's CPU) until told to stop.

    Raises:
        UsageError: this host has no such device.
        UnavailableError: another worker serves it, or the broker is away.
    """
    service = Service(settings, device_id)
    connect(settings).close()
    service.start()
    try:
        app = build(service)
        app.worker_main(
            [
                "worker",
                "--concurrency=1",
                "--pool=prefork",
                "--without-gossip",
                "--without-mingle",
                "--loglevel=INFO",
                f"--hostname={service.device.device_id}@%h",
                f"--queues={device_queue(service.device.device_id)}",
            ]
        )
    finally:
        service.stop()
