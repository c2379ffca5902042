# SPDX-License-Identifier: Apache-2.0
"""Which execution providers of ONNX Runtime really load: onnxruntime-gpu lists some that this host cannot run.

The only proof is a session. One of a one-node model is opened with the provider; what ONNX Runtime writes while it
tries is caught, because a library that is missing is logged and passed over, not raised.
"""

import contextlib
import ctypes
import faulthandler
import json
import os
import re
import subprocess
import sys
import tempfile
from typing import Any, Dict, Iterator, List, Optional, Tuple

from workers.workflows.base import require
from workers.workflows.errors import Unsupported

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
#: What is tried; the CPU's is part of the library and Azure's is no device.
TRIED = (CUDA, TENSORRT)
#: y = Relu(x), one float, opset 13: `onnx.helper` made it, written out so that a stack needs no `onnx` to be probed.
_RELU = bytes.fromhex(
    "08073a360a0c0a0178120179220452656c75120474696e795a0f0a0178120a0a08080112040a020801620f0a0179120a0a08080112040a"
    "02080142040a00100d"
)
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_TRY = "import sys; sys.path.insert(0, sys.argv[1]); from workers.workflows import ort_providers as p; p.answer()"
#: One node is less than a subgraph then, so that trying TensorRT does not build an engine.
_TRIAL = {TENSORRT: {"trt_min_subgraph_size": "5"}}
_LIMIT_S = 45
_MOST_REASON = 400
_CAUSES = (r"Failed to load library [^\x1b\n]+", r"CUDA failure \d+: .+?(?= ; GPU=|\n|$)")


def strict_session(ort: Any, model: Any, options: Any, providers: List[Any]) -> Any:
    """Open a session that raises what a provider raises, where ONNX Runtime's own would try others on its own."""

    class StrictSession(ort.InferenceSession):  # type: ignore[misc]
        def _create_inference_session(self, *arguments: Any, **more: Any) -> Any:
            self._enable_fallback = False
            return super()._create_inference_session(*arguments, **more)

    return StrictSession(model, options, providers=providers)


def find_libraries(ort: Any, provider: str) -> None:
    """Load what pip puts where the dynamic linker does not look: CUDA's libraries, and TensorRT's by its module."""
    if hasattr(ort, "preload_dlls"):  # 1.21 and later
        ort.preload_dlls()
    if provider == TENSORRT:
        with contextlib.suppress(Exception):  # the provider's own attempt tells what is missing
            require("tensorrt")


def why_not(ort: Any, provider: str) -> Optional[str]:
    """Why a provider does not load; None where it does. It may end the process: ask in one that can be lost."""
    reason = _not_listed(ort, provider)
    if reason is not None:
        return reason
    find_libraries(ort, provider)
    raised, chosen = "", ""
    with captured() as said:
        try:
            chosen = strict_session(ort, _RELU, None, [(provider, _TRIAL.get(provider, {}))]).get_providers()[0]
        except Exception as error:  # noqa: BLE001 - the boundary: providers fail in any way
            raised = str(error) or type(error).__name__
    if chosen == provider:
        return None
    return _cause(said.text + "\n" + raised) or "ONNX Runtime chose {} instead".format(chosen)


def _not_listed(ort: Any, provider: str) -> Optional[str]:
    listed = ort.get_available_providers()
    if provider in listed:
        return None
    return "onnxruntime {} is built without it; it has {}".format(ort.__version__, ", ".join(listed))


def check_listed(provider: str) -> None:
    """Refuse an onnxruntime that is built without a provider. Raises MissingLibrary, Unsupported."""
    reason = _not_listed(require("onnxruntime"), provider)
    if reason is not None:
        raise _not_loadable(provider, reason)


def require_provider(provider: str) -> Any:
    """Import onnxruntime and hold it to loading a provider.

    Raises:
        MissingLibrary: there is no onnxruntime.
        Unsupported: it does not load the provider.
    """
    ort = require("onnxruntime")
    reason = why_not(ort, provider)
    if reason is not None:
        raise _not_loadable(provider, reason)
    return ort


def _not_loadable(provider: str, reason: str) -> Unsupported:
    return Unsupported(
        "this stack's ONNX Runtime cannot load {}: {}".format(provider, reason),
        "Install onnxruntime-gpu with the CUDA, cuDNN and TensorRT versions that it was built for, and let the stack's "
        "LD_LIBRARY_PATH find them; `farm probe` shows what loads.",
        "provider-not-loadable",
    )


def probe(ort: Any) -> Dict[str, Any]:
    """The features of a stack: providers that load and, for those listed that do not, why. Never raises."""
    listed = list(ort.get_available_providers())
    found: Dict[str, Any] = {"onnxruntime_providers": listed}
    loadable, problems = [name for name in listed if name == CPU], {}
    for provider in (name for name in TRIED if name in listed):
        reason = _ask(provider)
        if reason is None:
            loadable.append(provider)
        else:
            problems[provider] = reason
    return dict(found, onnxruntime_providers_loadable=loadable, onnxruntime_providers_loadable_problems=problems)


def _ask(provider: str) -> Optional[str]:
    """`why_not` in a process of its own, which may crash or hang."""
    isolated = ["-I"] if sys.flags.isolated else []
    with tempfile.TemporaryDirectory(prefix="inferfarm-provider-") as scratch:
        path = os.path.join(scratch, "answer.json")
        try:
            done = subprocess.run(
                [sys.executable, *isolated, "-c", _TRY, _ROOT, provider, path],
                stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno(), timeout=_LIMIT_S, check=False,
            )  # fmt: skip
        except (OSError, ValueError) as error:
            return "it could not be tried: {}".format(error)
        except subprocess.TimeoutExpired:
            return "it did not load within {} s".format(_LIMIT_S)
        try:
            with open(path, encoding="utf-8") as stream:
                answer: Optional[str] = json.load(stream)
            return answer
        except (OSError, ValueError):
            return "loading it ended the process with code {}".format(done.returncode)


def answer() -> None:
    """The other process: write `why_not` of the provider named by the arguments to the file named there."""
    _, provider, path = sys.argv[1:]
    reason = why_not(require("onnxruntime"), provider)
    with open(path, "w", encoding="utf-8") as stream:
        json.dump(reason, stream)


class Captured:
    """What was written to standard error, once the block has ended."""

    text = ""


@contextlib.contextmanager
def captured() -> Iterator[Captured]:
    """Catch what native code writes to standard error; it is written there all the same, afterwards."""
    found = Captured()
    sys.stderr.flush()
    kept, traces = os.dup(2), faulthandler.is_enabled()
    with tempfile.TemporaryFile() as stream:
        os.dup2(stream.fileno(), 2)
        if traces:  # the stack of a crash must not end in a file that nobody sees
            faulthandler.enable(kept)
        try:
            yield found
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            if traces:
                faulthandler.enable(2)
            os.close(kept)
            stream.seek(0)
            content = stream.read()
            found.text = content.decode("utf-8", "replace")
            os.write(2, content)


def linked_tensorrt(ort: Any) -> Tuple[int, str]:
    """The TensorRT that the provider uses: its major version and its version, `8.6.0`.

    Raises:
        Unsupported: that library is not to be found.
    """
    path = os.path.join(os.path.dirname(ort.__file__), "capi", "libonnxruntime_providers_tensorrt.so")
    name = needed_library(path)
    try:
        number = int(ctypes.CDLL(name).getInferLibVersion())
    except (OSError, AttributeError) as error:
        raise Unsupported(
            "ONNX Runtime's TensorRT provider needs {}: {}".format(name, error),
            "Install that TensorRT into the stack, or an ONNX Runtime that is built for the one it has.",
            "provider-not-loadable",
        ) from error
    return tensorrt_version(number)


def needed_library(path: str) -> str:
    """The name of TensorRT's library that the provider's library asks for. Raises Unsupported."""
    try:
        with open(path, "rb") as stream:
            found = re.search(rb"libnvinfer\.so\.\d+", stream.read())
    except OSError:
        found = None
    if found is None:
        raise Unsupported(
            "this stack's ONNX Runtime has no TensorRT provider", "Install onnxruntime-gpu.", "provider-not-loadable"
        )
    return found.group().decode("ascii")


def tensorrt_version(number: int) -> Tuple[int, str]:
    """`getInferLibVersion` as text: 8601 is 8.6.1 and, from version 10 on, 101600 is 10.16.0."""
    first, second = (10000, 100) if number >= 100000 else (1000, 100)
    major, rest = divmod(number, first)
    return major, "{}.{}.{}".format(major, rest // second, rest % second)


def _cause(text: str) -> str:
    """The line that names the cause; ONNX Runtime puts C++ signatures before it, a random number and a host after."""
    for pattern in _CAUSES:
        found = re.search(pattern, text)
        if found:
            return found.group().strip()[:_MOST_REASON]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:_MOST_REASON] if lines else ""
