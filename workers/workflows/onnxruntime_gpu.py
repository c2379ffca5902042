# SPDX-License-Identifier: Apache-2.0
"""What ONNX Runtime's two GPU workflows have in common: a provider that really loads, data on the device, TF32 held.

ONNX Runtime waits for its streams at the end of each run, so `infer` returns when the work is done; `synchronize` asks
the providers once more, which costs microseconds and holds where a later version returns early.
"""

import os
from typing import Any, Callable, Dict, List, Optional, Tuple

from workers.workflows import cuda_driver, cuda_graph, ort_graph, ort_options, ort_providers, tf32
from workers.workflows.base import Context, Lane, versions
from workers.workflows.errors import WorkflowError
from workers.workflows.layers import LayerProfiler
from workers.workflows.onnx_session import Bound, SessionLane, dealt
from workers.workflows.onnx_workflow import OnnxWorkflow
from workers.workflows.ort_layers import OrtLayers, model_nodes, profile_prefix

_OF_THIS_RUN = ("_path", "_stream", "_alloc", "_free", "_empty_cache")


class OnnxRuntimeGpu(OnnxWorkflow):
    """One session, one input in flight, inputs and outputs in device memory."""

    provider = ""

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self._ort: Any = None
        self._session: Any = None
        self._last: Any = None
        self._reused: Optional[Bound] = None
        self._cuda_graph = cuda_graph.asked(ctx.job.options)
        self._graph: Optional[ort_graph.OrtGraph] = None
        self._unwaited: Any = None
        self._dealt: List[Any] = []

    def setup(self) -> None:
        """Turn TF32 off before a library asks, then load the provider; without a GPU this is where it shows."""
        tf32.hold(self.ctx.job.precision)
        if self.ctx.taking_apart:
            self._wait_for_kernels()
        found = versions("onnxruntime", "numpy")
        ort_options.check_versions(found["onnxruntime"], found["numpy"])
        ort_providers.check_listed(self.provider)
        cuda_driver.check_one_gpu()
        self._ort = ort_providers.require_provider(self.provider)

    def _wait_for_kernels(self) -> None:
        """ONNX Runtime's profile has the time of the call, which on a GPU only launches: so launches are made to wait.

        The driver reads this when it is first used. The wheels have no part that times kernels (CUPTI).
        """
        os.environ["CUDA_LAUNCH_BLOCKING"] = "1"

    @property
    def _profile_prefix(self) -> Optional[str]:
        return profile_prefix(self.ctx.control_dir) if self.ctx.taking_apart else None

    def layer_profiler(self) -> LayerProfiler:
        """The session's own profile."""
        found = OrtLayers(self._session, model_nodes(self._file().path))
        found.notes.append("each kernel was waited for (CUDA_LAUNCH_BLOCKING=1): times hold its launch and the wait")
        return found

    @property
    def _end_to_end(self) -> bool:
        return self.ctx.job.protocol.boundary == "end_to_end"

    def to_device(self, host_input: Any) -> Any:
        """Copy the input to device memory of its own, with outputs; with `end_to_end` always to the same."""
        if self._cuda_graph:
            return self._graph_of(host_input).place(host_input, self._end_to_end)
        if not self._end_to_end:
            return Bound(self._session, host_input, "cuda")
        if self._reused is None:
            self._reused = Bound(self._session, host_input, "cuda")
        else:
            self._reused.update(host_input)
        return self._reused

    def _graph_of(self, host_input: Any) -> ort_graph.OrtGraph:
        """The session's one graph, captured with the first input. Inputs that stay apart are copied into its own."""
        if self._graph is None:
            copies = not self._end_to_end and self.ctx.job.protocol.inputs != "warm"
            self._graph = ort_graph.OrtGraph(self._session, host_input, copies)
        return self._graph

    def infer(self, batch: Any) -> None:
        """Run the session, or launch its graph."""
        if self._graph is not None:
            self._graph.run(batch)
            self._last = self._graph.fixed
            return
        self._session.run_with_iobinding(batch.binding)
        self._last = batch

    def queue(self, batch: Any) -> None:
        """Run the session without waiting for its stream at the end."""
        if self._unwaited is None:
            self._unwaited = self._ort.RunOptions()
            self._unwaited.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self._session.run_with_iobinding(batch.binding, self._unwaited)
        self._last = batch

    def lanes(self, count: int) -> List[Lane]:
        """Threads that run a session at once: each run takes a stream of its own from the session's."""
        self._dealt = dealt(self._open, self._session, self._sessions(count), count)
        return [SessionLane(session, "cuda", self._end_to_end) for session in self._dealt]

    def _sessions(self, lanes: int) -> int:
        """How many sessions so many lanes share, where the protocol leaves it open: one."""
        return self.ctx.job.protocol.sessions or 1

    def _open(self) -> Any:
        """A session as `load` opens it."""
        raise NotImplementedError

    def ran(self) -> Dict[str, Any]:
        """Whether CUDA graphs were launched, where they were asked for; how many sessions the lanes had."""
        sessions = {"sessions": len({id(session) for session in self._dealt})} if self._dealt else {}
        graph = {"cuda_graph": self._graph.facts(self._end_to_end)} if self._graph is not None else {}
        return dict(graph, **sessions)

    def _opened(self, opens: Callable[[], Any]) -> Any:
        """A session. Raises GraphNotCaptured where one with CUDA graphs is refused for them."""
        try:
            return opens()
        except WorkflowError as error:
            if self._cuda_graph and ort_graph.refused(error):
                raise cuda_graph.explained(error) from error
            raise

    def synchronize(self) -> None:
        """Wait for the providers of the outputs."""
        self._last.binding.synchronize_outputs()

    def outputs(self) -> List[Tuple[str, Any]]:
        """Copies of the last inference's outputs in host memory."""
        found: List[Tuple[str, Any]] = self._last.outputs(self._session)
        return found

    def cache_bytes(self) -> Optional[int]:
        """The GPU's level-2 cache."""
        return cuda_driver.l2_cache_bytes()

    def effective(self) -> Dict[str, Any]:
        """The provider, its options, the threads and the switches of TF32, each read back."""
        precision, options = self.ctx.job.precision, self._session.get_provider_options()
        held = ort_options.held_cuda(options.get(ort_providers.CUDA, {}), precision)
        return {
            "precision": self._held_precision(options),
            "threads": self._session.get_session_options().intra_op_num_threads,
            "provider": self._session.get_providers()[0],
            "providers": self._session.get_providers(),
            "device": "cuda:0",
            "provider_options": {name: _telling(values) for name, values in options.items()},
            "tf32": precision == "tf32",
            "tf32_held_by": {"environment": tf32.assert_held(precision), "cuda_provider": held},
            "graph_optimization": "all",
            "opset": self._source.onnx().facts["opset"],
            "placement": self._placement(),
            "reference": self._source.reference_name,
        }

    def metrics(self) -> Dict[str, float]:
        """The share of nodes that ran on another provider in prepare's first run."""
        return {"fallback_node_share": float(self._placement()["fallback_share"])}

    def close(self) -> None:
        """Free the bound memory before the session that it is bound to."""
        self._last = self._reused = self._graph = None
        self._dealt = []
        self._session = None

    def _builds(self) -> bool:
        return True

    def _placement(self) -> Dict[str, Any]:
        """Which provider ran which nodes."""
        raise NotImplementedError

    def _held_precision(self, options: Dict[str, Dict[str, str]]) -> str:
        """The precision that is asserted, with the session's options by provider."""
        raise NotImplementedError


def _telling(options: Dict[str, str]) -> Dict[str, str]:
    """Options without paths of this run and addresses of this process."""
    return {name: value for name, value in options.items() if not name.endswith(_OF_THIS_RUN)}
