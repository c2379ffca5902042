# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime's CPU provider with I/O binding: fp32, and int8 as static Q/DQ.

Measuring imports neither torch nor onnx: what is in the file was counted when it was made, and its sha256 is checked.
"""

from typing import Any, Dict, List, Tuple

from workers.workflows.base import Context, require
from workers.workflows.onnx_session import Bound, open_session
from workers.workflows.onnx_workflow import OnnxWorkflow


class OnnxRuntimeCpu(OnnxWorkflow):
    """One session, one input in flight, inputs and outputs bound before the clock starts."""

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self._session: Any = None
        self._last: Any = None

    def setup(self) -> None:
        """Import what loading needs."""
        if not self.ctx.preparing:
            require("numpy")
            require("onnxruntime")

    def load(self) -> None:
        """Open the session."""
        self._session = open_session(self._engine.path, self.ctx.threads)

    def to_device(self, host_input: Any) -> Any:
        """Bind the input, and outputs of its batch size."""
        return Bound(self._session, host_input)

    def infer(self, batch: Any) -> None:
        """Run the session; on the CPU it is done when it returns."""
        self._session.run_with_iobinding(batch.binding)
        self._last = batch

    def outputs(self) -> List[Tuple[str, Any]]:
        """Copies of the last inference's outputs."""
        found: List[Tuple[str, Any]] = self._last.outputs(self._session)
        return found

    def effective(self) -> Dict[str, Any]:
        """The provider and threads are read from the session, the precision from the file's nodes."""
        facts = self._engine.facts
        held = {
            "precision": "int8" if facts["quantize"] and facts["dequantize"] else "fp32",
            "threads": self._session.get_session_options().intra_op_num_threads,
            "provider": self._session.get_providers()[0],
            "device": "cpu",
            "opset": facts["opset"],
            "graph_optimization": "all",
            "reference": self._source.reference_name,
        }
        return dict(held, **self._int8.effective()) if self._int8 else held

    def close(self) -> None:
        """Free the session."""
        self._last = self._session = None
