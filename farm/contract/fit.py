# SPDX-License-Identifier: Apache-2.0
"""Whether a workflow can do what its options and a protocol ask for together, and why not. Pure."""

from typing import Any, Dict, NamedTuple, Optional

from farm.contract import concurrency
from farm.contract.catalogue import WORKFLOWS
from farm.contract.job import Protocol
from farm.contract.workflow_info import WorkflowInfo


class Unfit(NamedTuple):
    """A stable kebab-case reference, what does not go together, and the way out."""

    reference: str
    message: str
    hint: str


def unfit(info: WorkflowInfo, kind: str, options: Dict[str, Any], protocol: Protocol) -> Optional[Unfit]:
    """Why options and protocol do not go together, or not on a kind of device; None where they do."""
    scenario = protocol.scenario
    if scenario not in info.scenarios:
        able = ", ".join(other.name for other in WORKFLOWS.values() if scenario in other.scenarios)
        message = "{} has no scenario {!r}, it has: {}".format(info.name, scenario, ", ".join(info.scenarios))
        return Unfit("scenario-unsupported", message, "These have it: {}.".format(able))
    set_on = [name for name, value in sorted(options.items()) if value not in (None, False)]
    for name in set_on:
        if name in info.gpu_options and kind != "gpu":
            message = "option {} of {} is for GPUs, and this is a {}".format(name, info.name, kind)
            return Unfit("option-unsupported", message, "Leave it out, or choose GPUs in `devices`.")
        if name in info.single_options and scenario != "single":
            message = "option {} of {} does not go with the scenario {!r}".format(name, info.name, scenario)
            return Unfit("option-unsupported", message, "Leave it out, or use the scenario `single`.")
    found = concurrency.lacking(info, kind, protocol) or concurrency.disagreement(protocol)
    return None if found is None else Unfit(concurrency.REFERENCE, *found)
