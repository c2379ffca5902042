# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime's CPU provider with I/O binding: fp32, and int8 as static Q/DQ.

Measuring imports neither torch nor onnx: what is in the file was counted when it was made, and its sha256 is checked.
"""

from typing import Any, Dict

from workers.workflows.onnx_cpu_session import CpuSession
from workers.workflows.onnx_workflow import OnnxWorkflow


class OnnxRuntimeCpu(CpuSession, OnnxWorkflow):
    """One session, one input in flight."""

    def effective(self) -> Dict[str, Any]:
        """The session's own facts; the precision is read from the file's nodes."""
        facts = self._engine.facts
        precision = "int8" if facts["quantize"] and facts["dequantize"] else "fp32"
        held = dict(self.session_facts(), precision=precision, reference=self._source.reference_name)
        return dict(held, **self._int8.effective()) if self._int8 else held
