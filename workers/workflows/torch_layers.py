# SPDX-License-Identifier: Apache-2.0
"""Time per module or operator of a torch model, by torch.profiler.

On a GPU a row's time is that in which a kernel of it ran, each counted with the operator that launched it; on a CPU
that of its calls.
In eager execution each leaf module is a row, by a range around its forward, and so is what is called outside of any.
"""

import contextlib
import re
import warnings
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from farm.contract.layers import BETWEEN, TENSORRT
from workers.workflows.layers import LayerProfiler, Observed, Rows, Step, kernel_type, nothing_seen
from workers.workflows.torch_kernels import Kernel, busy_ns, longest, on_device, timed, told_apart

_PREFIX = "inferfarm::"
_ITERATION = _PREFIX + "iteration"
_MODULE = _PREFIX + "module::"
#: Calls of CUDA's runtime and driver, which are events of the host, too.
_RUNTIME = re.compile("cu(da)?[A-Z]")
#: Torch-TensorRT's operators that run an engine, of its C++ and its Python runtime.
_ENGINES = ("tensorrt::execute_engine", "tensorrt::", "PythonTorchTensorRTModule:TensorRTRuntime")

#: Kernels of each iteration by place and name of their row.
_Seen = Dict[Tuple[str, str], List[List[Kernel]]]


class TorchLayers(LayerProfiler):
    """`module` is what runs. `by_module`: it is eager, so that its parts can be hooked; else rows are operators."""

    source = "torch.profiler"

    def __init__(self, torch: Any, module: Any, on_gpu: bool, by_module: bool) -> None:
        super().__init__()
        self._torch, self._module, self._by_module = torch, module, by_module
        self.clock = "device" if on_gpu else "host"
        # Before 2.4, torch.profiler counts in whole microseconds.
        self.coarse = _version(torch.__version__) < (2, 4)
        self._types: Dict[str, Tuple[str, Optional[str]]] = {}

    def observe(self, step: Step, count: int) -> List[Observed]:
        """Profile all steps at once. Raises WorkflowError on a GPU whose kernels are not seen (CUPTI)."""
        profiler, ranges = self._torch.profiler, self._torch.profiler.record_function
        kinds = [profiler.ProfilerActivity.CPU]
        if self.clock == "device":
            kinds.append(profiler.ProfilerActivity.CUDA)
        with self._hooked(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with profiler.profile(activities=kinds) as profile:
                for _ in range(count):
                    with ranges(_ITERATION):
                        step()
            events = list(profile.events())
        rows, steps = Rows(count), [event for event in events if event.name == _ITERATION and _on_host(event)]
        if self.clock == "device":
            self._take_device(rows, count, steps[:count], on_device(profile))
            self._take_unlinked(rows, count, events)
        else:
            for iteration, event in enumerate(steps[:count]):
                self._take_host(rows, iteration, event)
        found = rows.list()
        if not any(row.place != BETWEEN for row in found):
            raise nothing_seen("torch.profiler")
        return found

    @contextlib.contextmanager
    def _hooked(self) -> Iterator[None]:
        """Ranges named after each leaf module, while it is profiled."""
        if not self._by_module:
            yield
            return
        open_ranges: List[Any] = []
        handles = []
        for name, module in self._module.named_modules():
            if not any(True for _ in module.children()):
                handles.append(module.register_forward_pre_hook(self._enter(name, open_ranges)))
                handles.append(module.register_forward_hook(self._leave(name, open_ranges)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, name: str, open_ranges: List[Any]) -> Callable[..., None]:
        def enter(_module: Any, _inputs: Any) -> None:
            open_ranges.append(self._torch.profiler.record_function(_MODULE + name))
            open_ranges[-1].__enter__()

        return enter

    def _leave(self, name: str, open_ranges: List[Any]) -> Callable[..., None]:
        def leave(module: Any, _inputs: Any, output: Any) -> None:
            open_ranges.pop().__exit__(None, None, None)
            if name not in self._types:
                self._types[name] = (type(module).__name__, precision_of(getattr(output, "dtype", None)))

        return leave

    def _take_host(self, rows: Rows, iteration: int, event: Any) -> None:
        taken = sum(self._take_calls(rows, iteration, child) for child in event.cpu_children)
        between = Observed("(between operators)", "host", BETWEEN)
        rows.add(BETWEEN, iteration, max(_total_ns(event) - taken, 0.0), lambda: between)

    def _take_calls(self, rows: Rows, iteration: int, event: Any) -> float:
        """Rows of a CPU: modules, and operators outside of any; what wraps both is looked into."""
        if not (event.name.startswith(_MODULE) or is_operator(event.name)):
            return sum(self._take_calls(rows, iteration, child) for child in event.cpu_children)
        time_ns = _total_ns(event)
        rows.add(event.name, iteration, time_ns, lambda: self._row(event.name, _leaf(event)))
        return time_ns

    def _take_device(self, rows: Rows, count: int, steps: List[Any], known: Dict[int, List[Kernel]]) -> None:
        seen: _Seen = {}
        for iteration, event in enumerate(steps):
            for child in event.cpu_children:
                for place, name, kernel in _kernels(child, None, known):
                    seen.setdefault((place, name), [[] for _ in range(count)])[iteration].append(kernel)
        for (place, name), runs in seen.items():
            row = self._row(name, longest([kernel for kernels in runs for kernel in kernels]), place)
            for iteration, kernels in enumerate(runs):
                rows.add((place, name), iteration, busy_ns(kernels), lambda: row, len(kernels))  # noqa: B023
        untold = sum(not all(map(told_apart, runs)) for runs in seen.values())
        if untold:
            said = "when the kernels of {} rows ran is not known: their time is the sum of the kernels' durations"
            self.notes.append(said.format(untold))

    def _take_unlinked(self, rows: Rows, count: int, events: List[Any]) -> None:
        """Kernels that no operator launched (Triton's, from Python): shared out evenly, for nothing tells whose.

        What an annotation of the host casts onto the device has the annotation's name, and is no kernel.
        """
        host = [event for event in events if _on_host(event)]
        names = {event.name for event in host}
        left: Dict[str, List[float]] = {}
        for event in events:
            if not _on_host(event) and event.name not in names:
                left.setdefault(event.name, []).append(_total_ns(event))
        for event in host:
            for kernel in _launched(event):
                if left.get(kernel.name):
                    left[kernel.name].pop()
        for name, times_ns in left.items():
            calls = len(times_ns)
            for iteration in range(count if times_ns else 0):
                made = Observed(name, "kernel", "pytorch", (), kernel_type(name), name)
                share = calls if iteration == 0 else 0
                rows.add(("unlinked", name), iteration, sum(times_ns) / count, lambda: made, share)  # noqa: B023

    def _row(self, name: str, tactic: Optional[str], place: str = "pytorch") -> Observed:
        if not name.startswith(_MODULE):
            kind = name.partition("::")[2] if is_operator(name) else "kernel"
            return Observed(name, kind, place, (), kernel_type(tactic or name), tactic)
        module = name[len(_MODULE) :]
        kind, precision = self._types.get(module, ("module", None))
        return Observed(module, kind, place, (module,), precision, tactic)


def _kernels(event: Any, owner: Optional[str], known: Dict[int, List[Kernel]]) -> Iterator[Tuple[str, str, Kernel]]:
    """Place, row and kernel: rows are modules, and operators outside of any; of what is neither each kernel by name."""
    if owner is None and (event.name.startswith(_MODULE) or is_operator(event.name)):
        owner = event.name
    inside = owner is not None and owner.startswith(_ENGINES)
    for kernel in timed(_launched(event), known.get(event.id, ())):
        yield TENSORRT if inside else "pytorch", kernel.name if owner is None or inside else owner, kernel
    for child in event.cpu_children:
        yield from _kernels(child, owner, known)


def _launched(event: Any) -> List[Any]:
    """The kernels that an operator launched.

    A call of the CUDA runtime launches for the operator around it. Where its own number happens to be that of another
    operator, torch hangs that one's kernels onto it as well (pytorch issue 124388): they would count twice.
    """
    return [] if event.name.startswith(_PREFIX) or _RUNTIME.match(event.name) else list(event.kernels)


def is_operator(name: str) -> bool:
    """`aten::conv2d`, `mkldnn::_convolution_pointwise`, a Triton kernel of Inductor; not the wrappers around them."""
    if name.startswith(("triton_", "extern_kernels", "graph_", "PythonTorchTensorRTModule:TensorRTRuntime")):
        return True
    return "::" in name and not name.startswith(_PREFIX) and " " not in name and name.partition("::")[0].islower()


def precision_of(dtype: Any) -> Optional[str]:
    """A torch type in the farm's words."""
    names = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "int8": "int8", "quint8": "int8"}
    return names.get(str(dtype).replace("torch.", ""))


def _leaf(event: Any) -> Optional[str]:
    """The operator below `event` that took most time itself: what a convolution came down to."""
    best, todo = None, list(event.cpu_children)
    while todo:
        child = todo.pop()
        todo.extend(child.cpu_children)
        if best is None or child.self_cpu_time_total > best.self_cpu_time_total:
            best = child
    return best.name if best is not None else None


def _total_ns(event: Any) -> float:
    return float(event.time_range.elapsed_us()) * 1e3


def _on_host(event: Any) -> bool:
    return str(event.device_type).endswith("CPU")


def _version(text: str) -> Tuple[int, int]:
    major, minor = text.split(".")[:2]
    return int(major), int(minor)
