# SPDX-License-Identifier: Apache-2.0
"""`farm worker`: serve one device of this host in the foreground, until SIGTERM; the running job is finished first."""

from __future__ import annotations

from contextlib import closing

from farm.broker.connection import connect
from farm.broker.register import Register
from farm.contract.names import device_queue
from farm.errors import UnavailableError
from farm.settings import Settings
from workers.app import build
from workers.daemon.service import UPGRADE_HINT, Service


def serve(settings: Settings, device_id: str | None = None) -> None:
    """Serve a device (by default the settings' `device`, else this host's CPU) until told to stop.

    Raises:
        UsageError: this host has no such device.
        UnavailableError: another worker serves it, here or on another machine of this name; the broker is away, or the
            farm has too different a release.
    """
    service = Service(settings, device_id)
    with closing(connect(settings)) as client:
        misfit = Register(client).misfit()
    if misfit is not None:
        raise UnavailableError(misfit, hint=UPGRADE_HINT)
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
        if service.taken is not None:
            raise service.taken
