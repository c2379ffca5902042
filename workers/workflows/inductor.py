# SPDX-License-Identifier: Apache-2.0
"""What Inductor compiled, as one file: compiled in prepare, unpacked and loaded by the process that measures.

Inductor keeps what it compiles in a directory. The farm keeps that directory as one archive for each batch size, found
by everything the compiled code depends on, with a digest like every prepared file: compiled code is only ever loaded
from an archive that this farm made. Unpacked anywhere, Inductor finds its entries again.
"""

import contextlib
import os
import platform
import shutil
import subprocess
from typing import Any, Dict, Iterator, List, Optional, Tuple

from farm.contract import archive
from farm.contract.canonical import short_digest
from workers.workflows.errors import Unsupported, WorkflowError, is_out_of_memory

RECIPE = 1
_VARIABLES = ("TORCHINDUCTOR_", "TORCHDYNAMO_", "TORCH_COMPILE", "CXX", "CPATH", "CPLUS_INCLUDE_PATH", "OMP_")
_GPU_VARIABLES = ("TORCHINDUCTOR_", "TORCHDYNAMO_", "TORCH_COMPILE", "TRITON_", "C_INCLUDE_PATH", "CPATH")
#: Compiled kernels: libraries on a CPU; Triton's kernels, and the libraries that launch them, on a GPU.
_KERNELS = (".so", ".cubin")
#: Lines of /proc/cpuinfo that tell one kind of CPU from another: kernels are compiled for the CPU that compiles them.
_CPU_LINES = ("model name", "flags", "Features", "CPU implementer", "CPU part")
_COMPILER_LIMIT_S = 60


class Compiled(BaseException):
    """Raised in place of the compiled code's first run, in prepare: no error, and no `except Exception` takes it."""


def host_key(on_gpu: bool = False) -> Dict[str, Any]:
    """What compiled code depends on outside of torch: compiler, CPU, interpreter, switches in the environment.

    Raises:
        Unsupported: there is no C++ compiler, or for a GPU no C compiler.
    """
    variables = _GPU_VARIABLES if on_gpu else _VARIABLES
    return {
        "compiler": _c_compiler() if on_gpu else _compiler(),
        "cpu": short_digest(_cpu()),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "variables": {k: v for k, v in sorted(os.environ.items()) if k.startswith(variables)},
        "recipe": RECIPE,
    }


def _compiler() -> str:
    asked = os.environ.get("CXX", "g++")
    path = shutil.which(asked)
    if path is None:
        raise Unsupported(
            "torch.compile needs a C++ compiler on CPUs, and there is no {!r} on this host's PATH".format(asked),
            "Install one (Debian: `apt-get install g++`), or name another in the stack's environment as CXX.",
            "compiler-missing",
        )
    return _first_line(path)


def _c_compiler() -> str:
    """The compiler that Triton takes for the libraries that launch its kernels: CC, else gcc, else clang."""
    asked = [os.environ["CC"]] if os.environ.get("CC") else ["gcc", "clang"]
    for path in map(shutil.which, asked):
        if path is not None:
            return _first_line(path)
    raise Unsupported(
        "torch.compile needs a C compiler on GPUs, for Triton, and there is no {} on PATH".format(" or ".join(asked)),
        "Install one (Debian: `apt-get install gcc`), or name another in the stack's environment as CC.",
        "compiler-missing",
    )


def _first_line(path: str) -> str:
    done = subprocess.run(
        [path, "--version"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=_COMPILER_LIMIT_S, check=False
    )
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    return "{}: {}".format(path, lines[0] if lines else "exit code {}".format(done.returncode))


def _cpu(path: str = "/proc/cpuinfo") -> List[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            first = stream.read().split("\n\n", 1)[0].splitlines()
    except OSError:
        return [platform.processor()]
    return [line for line in first if line.startswith(_CPU_LINES)]


def keep_headers(directory: str) -> None:
    """Have Inductor keep the headers that it precompiles in `directory`.

    Left to itself it keeps them below TMPDIR, which a run has to itself: each process would compile them again (5 s),
    also one that takes all kernels from the cache. Call it after Inductor was imported; a torch without this
    mechanism is left as it is.
    """
    from torch._inductor import codecache

    if hasattr(codecache, "_HEADER_DIR"):
        codecache._HEADER_DIR = directory
        codecache._HEADER_LOCK_DIR = os.path.join(directory, "locks")


def pack(directory: str, path: str) -> int:
    """Write what Inductor left in `directory` to one file; return the number of compiled kernels in it.

    Raises:
        WorkflowError: there is none, so that nothing was compiled.
    """
    names, kernels = _files(directory), kernel_count(directory)
    if not kernels:
        raise WorkflowError("Inductor compiled and left no kernel in its cache", None, "compile-failed")
    archive.pack(directory, names, path)
    return kernels


def kernel_count(directory: str) -> int:
    """How many compiled kernels are in Inductor's cache, Triton's among them."""
    return sum(name.endswith(_KERNELS) for name in _files(directory))


def directories(directory: str, on_gpu: bool) -> Dict[str, str]:
    """The environment that has Inductor, and on a GPU Triton, keep what they compile below `directory`."""
    found = {"TORCHINDUCTOR_CACHE_DIR": directory}
    return dict(found, TRITON_CACHE_DIR=os.path.join(directory, "triton")) if on_gpu else found


@contextlib.contextmanager
def compiling_in(directory: str) -> Iterator[str]:
    """Have Inductor and Triton compile into `directory`, empty before and gone after.

    Both keep absolute paths in what they write, Triton of its kernels and Inductor of its choices among them: what
    lies in another place is compiled or chosen anew. Use it within Inductor's own fresh cache, which forgets what
    this process has in memory.
    """
    before = {name: os.environ.get(name) for name in directories(directory, True)}
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    os.environ.update(directories(directory, True))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _files(directory: str) -> List[str]:
    found = []
    for folder, folders, files in os.walk(directory):
        folders[:] = [name for name in folders if name != "locks"]
        found += [os.path.relpath(os.path.join(folder, name), directory) for name in files]
    return [name for name in found if not name.endswith(".lock")]


def compile_only(mode: str) -> Any:
    """A backend of torch.compile that compiles as Inductor's own does, and raises `Compiled` in place of running.

    The activations of a large batch are thus never allocated: whether they fit shows where it is measured.
    """

    def backend(graph: Any, inputs: Any) -> Any:
        from torch._inductor import list_mode_options
        from torch._inductor.compile_fx import compile_fx

        compile_fx(graph, inputs, config_patches=list_mode_options(mode))

        def instead_of_running(*_: Any) -> Any:
            raise Compiled()

        return instead_of_running

    return backend


def counts() -> Dict[str, int]:
    """What Dynamo and Inductor counted in this process.

    `traced_anew` are graphs that AOTAutograd lowered again, which costs a second or so and compiles nothing: seen with
    dynamic shapes. `compiled_anew` are graphs that Inductor did not find.
    """
    from torch._dynamo.utils import counters

    cached, inductor = counters["aot_autograd"], counters["inductor"]
    return {
        "graphs": counters["stats"]["unique_graphs"],
        "graph_breaks": sum(counters["graph_break"].values()),
        "loaded": max(cached["autograd_cache_hit"], inductor["fxgraph_cache_hit"]),
        "traced_anew": cached["autograd_cache_miss"],
        "compiled_anew": inductor["fxgraph_cache_miss"],
        "cuda_graphs_skipped": inductor["cudagraph_skips"],
    }


def explained(error: Exception) -> Exception:
    """What torch.compile raised, in the farm's terms."""
    if isinstance(error, WorkflowError) or is_out_of_memory(error):
        return error
    names, text = _kinds(error), str(error).strip()
    if "InvalidCxxCompiler" in names:
        return Unsupported(
            "Inductor finds no C++ compiler that works: {}".format(text),
            "Install one (Debian: `apt-get install g++`), or name another in the stack's environment as CXX.",
            "compiler-missing",
        )
    if "GPUTooOldForTriton" in names or "TritonMissing" in names:
        return Unsupported(
            "Inductor cannot compile for this GPU: {}".format(text),
            "Use `pytorch`, or a stack whose triton works on this GPU.",
            "gpu-not-usable",
        )
    if names[0] in ("Unsupported", "UserError"):
        return Unsupported(
            "Dynamo cannot take the model as one graph: {}".format(text),
            "Use `pytorch`: what lies between graphs would run as it does there.",
            "graph-break",
        )
    if any(name in ("InductorError", "BackendCompilerFailed", "CppCompileError") for name in names):
        return WorkflowError(
            "Inductor could not compile the model: {}".format(text),
            "The failure's detail has the compiler's words; `TORCH_LOGS=+inductor` says more.",
            "compile-failed",
        )
    return error


def _kinds(error: BaseException) -> Tuple[str, ...]:
    inner: Optional[BaseException] = getattr(error, "inner_exception", None)
    return (type(error).__name__,) + (_kinds(inner) if inner is not None else ())
