# SPDX-License-Identifier: Apache-2.0
"""Another machine of the same name: both take one queue's jobs, and each the other's for those of a dead worker."""

from __future__ import annotations

import logging
import time

from farm.broker.register import TAKEN_FOR_S, Register, TakenError

log = logging.getLogger(__name__)

_LOOK_S = 0.5


def refuse_namesake(register: Register, device_id: str, machine: str | None) -> None:
    """Return once no other machine announces this device any more; after a crash and a reboot that is this one's past.

    Raises:
        TakenError: another machine goes on announcing it.
    """
    before = register.elsewhere(device_id, machine)
    if before is None:
        return
    log.warning(
        "%s was announced %.0f s ago, before this machine's boot or by another one: waiting for up to %.0f s",
        device_id,
        before,
        TAKEN_FOR_S - before,
    )
    while (age_s := register.elsewhere(device_id, machine)) is not None:
        if age_s < before:
            raise TakenError(device_id, age_s)
        before = age_s
        time.sleep(_LOOK_S)
