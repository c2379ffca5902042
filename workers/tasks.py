# SPDX-License-Identifier: Apache-2.0
"""The one task. A message carries a job's id and nothing else; whatever else it carries is dropped."""

from __future__ import annotations

import logging
from typing import Any

from celery import Celery, Task
from kombu.exceptions import KombuError

from farm.contract.names import TASK_RUN_JOB
from farm.errors import FarmError
from workers.daemon.reporter import Progress
from workers.daemon.service import Service

log = logging.getLogger(__name__)

#: Parts of a message that make the worker send further messages with its own rights.
_FOLLOW_UPS = ("callbacks", "errbacks", "chain", "chord")


def register(app: Celery, service: Service) -> None:
    """Make `workers.run_job` the only task of `app`."""

    @app.task(name=TASK_RUN_JOB, bind=True, ignore_result=True)  # type: ignore[untyped-decorator]
    def run_job(task: Task, *args: Any, **kwargs: Any) -> str:
        # Any arguments are taken: Celery's own refusal of wrong ones would set off the message's follow-ups.
        return _run_job(task, service, args[0] if len(args) == 1 and not kwargs else None)

    app.finalize()
    for name in [name for name in app.tasks if name != TASK_RUN_JOB]:
        app.tasks.pop(name)


def _run_job(task: Task, service: Service, job_id: Any) -> str:
    for name in _FOLLOW_UPS:
        setattr(task.request, name, None)
    events = TaskEvents(task)
    try:
        text = service.run_job(job_id, events.started, events.progress)
    except (FarmError, ValueError) as error:
        text = f"not run: {error}"
    except Exception as error:
        log.exception("job %s ended in an error of the worker", job_id)
        text = f"worker error: {type(error).__name__}: {error}"
    log.info("job %s: %s", job_id, text)
    return text


class TaskEvents:
    """Tells Flower and other watchers about one task; a watcher that cannot be reached is no trouble."""

    def __init__(self, task: Task) -> None:
        # Taken here: progress is told from another thread, where the task has no current request.
        self._app = task.app
        self._hostname = task.request.hostname
        self._task_id = task.request.id

    def started(self, job_name: str) -> None:
        """Show the task under its job's name."""
        self._send("task-started", name=job_name)

    def progress(self, progress: Progress) -> None:
        """Show where the job is."""
        self._send("task-progress", kwargs=repr(progress))

    def _send(self, kind: str, **fields: Any) -> None:
        try:
            with self._app.events.default_dispatcher(hostname=self._hostname) as dispatcher:
                dispatcher.send(kind, uuid=self._task_id, retry=False, **fields)
        except (KombuError, OSError) as error:
            log.debug("event %s could not be sent: %s", kind, error)
