# SPDX-License-Identifier: Apache-2.0
"""A workflow's file in a session of ONNX Runtime's CPU provider, inputs and outputs bound before the clock starts."""

from typing import Any, Dict, List, Optional, Tuple

from workers.workflows.base import Context, Lane, Workflow, require
from workers.workflows.layers import LayerProfiler
from workers.workflows.onnx_session import Bound, SessionLane, dealt, open_session
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
        self._session = self._open()

    def _open(self) -> Any:
        profile = profile_prefix(self.ctx.control_dir) if self.ctx.taking_apart else None
        inter = self.ctx.job.protocol.inter_threads
        return open_session(self._engine.path, self.ctx.threads, profile=profile, inter_threads=inter)

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
        """Threads that run a session at once; its intra-op threads are one pool for all that share it."""
        found = dealt(self._open, self._session, self._sessions, count)
        return [SessionLane(session) for session in found]

    @property
    def _sessions(self) -> int:
        return self.ctx.job.protocol.sessions or 1

    def threads_at_work(self) -> Optional[int]:
        """Each session's pools, and each lane's own thread, which helps but where it only waits for parallel operators.

        ONNX Runtime makes one thread less than it is told for either pool, since the caller is one.
        """
        protocol = self.ctx.job.protocol
        pool = self.ctx.threads - 1
        if protocol.inter_threads is None:
            return self._sessions * pool + protocol.in_flight
        return self._sessions * (pool + protocol.inter_threads - 1)

    def ran(self) -> Dict[str, Any]:
        """How many sessions there were, where requests shared them."""
        return {"sessions": self._sessions} if self.ctx.job.protocol.scenario == "streams" else {}

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
            "inter_threads": self._session.get_session_options().inter_op_num_threads,
        }
