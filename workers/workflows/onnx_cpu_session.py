# SPDX-License-Identifier: Apache-2.0
"""A workflow's file in a session of ONNX Runtime's CPU provider, inputs and outputs bound before the clock starts."""

from typing import Any, Dict, List, Tuple

from workers.workflows.base import Context, Lane, Workflow, require
from workers.workflows.layers import LayerProfiler
from workers.workflows.onnx_session import Bound, SessionLane, open_session
from workers.workflows.ort_layers import OrtLayers, model_nodes, profile_prefix


class CpuSession(Workflow):
    """Loads and runs `_engine`, the file that `find` sets; measuring imports neither torch nor onnx."""

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self._engine: Any = None
        self._session: Any = None
        self._last: Any = None

    def setup(self) -> None:
        """Import what loading needs."""
        if not self.ctx.preparing:
            require("numpy")
            require("onnxruntime")

    def load(self) -> None:
        """Open the session."""
        profile = profile_prefix(self.ctx.control_dir) if self.ctx.taking_apart else None
        self._session = open_session(self._engine.path, self.ctx.threads, profile=profile)

    def layer_profiler(self) -> LayerProfiler:
        """The session's own profile."""
        return OrtLayers(self._session, model_nodes(self._engine.path))

    def to_device(self, host_input: Any) -> Any:
        """Bind the input, and outputs of its batch size."""
        return Bound(self._session, host_input)

    def infer(self, batch: Any) -> None:
        """Run the session; on the CPU it is done when it returns."""
        self._session.run_with_iobinding(batch.binding)
        self._last = batch

    def lanes(self, count: int) -> List[Lane]:
        """Threads that run the one session at once; its intra-op threads are one pool for all of them."""
        return [SessionLane(self._session) for _ in range(count)]

    def outputs(self) -> List[Tuple[str, Any]]:
        """Copies of the last inference's outputs."""
        found: List[Tuple[str, Any]] = self._last.outputs(self._session)
        return found

    def close(self) -> None:
        """Free the session."""
        self._last = self._session = None

    def session_facts(self) -> Dict[str, Any]:
        """What really runs, for `effective`: the provider and threads are read from the session."""
        return {
            "threads": self._session.get_session_options().intra_op_num_threads,
            "provider": self._session.get_providers()[0],
            "device": "cpu",
            "opset": self._engine.facts["opset"],
            "graph_optimization": "all",
        }
