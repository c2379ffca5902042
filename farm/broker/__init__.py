# SPDX-License-Identifier: Apache-2.0
"""Redis: the connection, the embedded server, Celery's settings, the job states and the device register."""
