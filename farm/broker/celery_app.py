# SPDX-License-Identifier: Apache-2.0
"""Celery's settings, shared by everyone who sends or receives. Reasons: docs/decisions.md, "Celery"."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

from celery import Celery

from farm.broker import transport
from farm.settings import Settings

APP_NAME = "inferfarm"


def make_app(settings: Settings, url: str) -> Celery:
    """Build the Celery application. A message only names a job, so it may be lost, repeated or reordered."""
    transport.install()
    app = Celery(APP_NAME, broker=url, set_as_current=True)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        event_serializer="json",
        task_ignore_result=True,
        # Acknowledged early: late acknowledgement makes a second worker run the job after one TCP reset.
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_send_task_events=True,
        task_send_sent_event=False,
        worker_enable_remote_control=settings.remote_control,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": 3600,
            "socket_timeout": 10,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 10,
            "priority_steps": [0],
        },
    )
    if urlsplit(url).scheme == "rediss":
        # Celery itself reads these from the URL; Flower's page of queues reads only the setting.
        app.conf.broker_use_ssl = {k: v for k, v in parse_qsl(urlsplit(url).query) if k.startswith("ssl_")}
    return app
