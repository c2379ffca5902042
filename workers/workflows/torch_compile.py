# SPDX-License-Identifier: Apache-2.0
"""torch.compile with Inductor: what a PyTorch user would try first to make a model faster.

It compiles at the first call. Here prepare compiles, in its stage `build`, once for each batch size; the measuring
process takes that from the farm's cache while it loads, so its first inference is an inference.

On a CPU nothing is run while compiling. On a GPU Inductor also chooses among Triton kernels at the first run, so
prepare runs each batch once; and what it keeps names its own directory, so it is put back where it was compiled.
"""

import contextlib
import copy
import functools
import os
import shutil
from typing import Any, Dict, Iterator, List, Optional

from farm.contract.canonical import short_digest
from workers.workflows import archive, inductor, reference
from workers.workflows.base import Context, Lane, platform_key, require, versions
from workers.workflows.build_failures import BuildFailures
from workers.workflows.cache import CachedFile
from workers.workflows.errors import (
    BuildOutOfMemory,
    NotPrepared,
    ProviderFellBack,
    SettingNotHeld,
    Unsupported,
    is_out_of_memory,
)
from workers.workflows.layers import LayerProfiler
from workers.workflows.pytorch import PyTorch
from workers.workflows.torch_device import TorchDevice
from workers.workflows.torch_layers import TorchLayers
from workers.workflows.torch_setup import import_torch, import_torchvision, use_tf32

_MODES = ("default", "max-autotune")
_GPU_MODES = ("default", "reduce-overhead", "max-autotune")
#: Modes that make CUDA graphs: Inductor warms up, then records, and replays from the third call on.
_CUDA_GRAPH_MODES = ("reduce-overhead", "max-autotune")
_CALLS_TO_REPLAY = 3


class TorchCompile(PyTorch):
    """The module of `pytorch`, compiled as one whole graph."""

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self._mode = ctx.job.options.get("mode", "default")
        self._dynamic = ctx.job.options.get("dynamic", False)
        self._on_gpu = ctx.request.device.kind == "gpu"
        self._cuda_graphs = self._on_gpu and self._mode in _CUDA_GRAPH_MODES
        self._failures = BuildFailures(ctx, lambda: list(ctx.job.batches.sizes), self._key)
        self._unpacked: Optional[str] = None
        self._host: Dict[str, Any] = {}
        self._counts: Dict[str, int] = {}

    def setup(self) -> None:
        """Refuse modes that cannot work and hosts without a compiler, before torch is imported."""
        _check_mode(self._mode, self._on_gpu)
        if not isinstance(self._dynamic, bool):
            raise Unsupported("option dynamic is true or false, not {!r}".format(self._dynamic))
        if self._on_gpu:
            require("triton")
        self._host = inductor.host_key(self._on_gpu)
        if not self.ctx.preparing:
            # Compiling is over: no pool of compilers beside what is measured.
            os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
        super().setup()
        if not self.ctx.preparing:
            self._import_compiler()

    def prepare(self) -> None:
        """Make the weights, the compiled code of each batch size and the reference outputs."""
        with self.ctx.stage("load_model"):
            self._model.weights()
        with self.ctx.stage("build"):
            self._failures.build_all(self._code)
        with self.ctx.stage("reference"):
            reference.prepare_torch(self.ctx, self._model)

    def find(self) -> None:
        """The state dict and the compiled code, unpacked where Inductor will look."""
        super().find()
        directory = self._directory(self.ctx.batch_size)
        shutil.rmtree(directory, ignore_errors=True)
        archive.unpack(self._code(self.ctx.batch_size).path, directory)
        os.environ.update(inductor.directories(directory, self._on_gpu))
        self._unpacked = directory

    def load(self) -> None:
        """Build the module, load its weights, have it compiled (from the cache) by one call, and hold it to that."""
        super().load()
        compiled = self._compiled(self._module, "inductor", self._mode)
        try:
            for _ in range(_CALLS_TO_REPLAY if self._cuda_graphs else 1):
                compiled(self._example(self.ctx.batch_size))
            self._device.synchronize()
        except Exception as error:
            raise inductor.explained(error) from error
        self._counts = inductor.counts()
        directory = self._directory(self.ctx.batch_size)
        new = inductor.kernel_count(directory) - self._code(self.ctx.batch_size).facts["kernels"]
        _assert_compiled(self._counts, new)
        _assert_cuda_graphs(self._mode, self._counts)
        import torch._dynamo.config as dynamo

        # A guard that fails later would compile inside a sample.
        dynamo.error_on_recompile = True
        self._module = self._call = compiled

    def layer_profiler(self) -> LayerProfiler:
        """torch.profiler: operators and kernels, since compiled code has no modules any more."""
        return TorchLayers(self._torch, self._module, self._device.on_gpu, by_module=False)

    def effective(self) -> Dict[str, Any]:
        """As in eager execution, with what was compiled."""
        entry = self._code(self.ctx.batch_size)
        return dict(
            super().effective(),
            provider="inductor",
            mode=self._mode,
            dynamic=self._dynamic,
            graphs=self._counts["graphs"],
            graph_breaks=self._counts["graph_breaks"],
            graphs_traced_anew=self._counts["traced_anew"],
            compiled_kernels=entry.facts["kernels"],
            compiler=self._host["compiler"],
            **(self._gpu_facts() if self._on_gpu else {}),
        )

    def lanes(self, count: int) -> List[Lane]:
        """As in eager execution. Raises Unsupported for modes with CUDA graphs, which Inductor keeps for one thread."""
        if self._cuda_graphs:
            raise Unsupported(
                "mode {} makes CUDA graphs, which Inductor keeps for one thread".format(self._mode),
                "Use the mode `default` with the scenario `streams`.",
                "mode-unsupported",
            )
        return super().lanes(count)

    def _gpu_facts(self) -> Dict[str, Any]:
        graphs = self._cuda_graphs and not self._counts["cuda_graphs_skipped"]
        return {"triton": versions("triton")["triton"], "cuda_graphs": graphs}

    def engine_bytes(self) -> int:
        """Size of the state dict and of the compiled code."""
        return super().engine_bytes() + self._code(self.ctx.batch_size).size_bytes

    def build_s(self) -> Optional[float]:
        """What compiling for this batch size took."""
        return self._code(self.ctx.batch_size).total_build_s

    def close(self) -> None:
        """Let the model go, and the unpacked code."""
        super().close()
        if self._unpacked is not None:
            shutil.rmtree(self._unpacked, ignore_errors=True)

    def _code(self, size: int) -> CachedFile:
        build = functools.partial(self._compile, size)
        return self._failures.fetch(size, "inductor", "inductor.zip", build, self._ready)

    def _directory(self, size: int) -> str:
        """Where compiled code lies while it is used: on a GPU always where it was compiled, for this device alone."""
        if not self._on_gpu:
            return os.path.join(self.ctx.control_dir, "inductor")
        own = {"key": self._code_key(size), "device": self.ctx.request.device.device_id}
        return os.path.join(self.ctx.cache.root, "inductor_work", short_digest(own, 24))

    def _key(self, size: int) -> Dict[str, Any]:
        key = self._code_key(size)
        return dict(key, directory=self._directory(size), gpu=self._gpu_key()) if self._on_gpu else key

    def _gpu_key(self) -> Dict[str, Any]:
        return platform_key(self.ctx.request.device, "triton")

    def _code_key(self, size: int) -> Dict[str, Any]:
        return {
            "model": self._model.key(),
            "precision": self.ctx.job.precision,
            "mode": self._mode,
            "dynamic": self._dynamic,
            "channels_last": self._channels_last,
            "batch": size,
            "threads": self.ctx.threads,
            "versions": versions("torch"),
            "host": self._host,
        }

    def _ready(self) -> None:
        """Import torch and its compiler and load the model, which is no part of compiling."""
        self._torch = import_torch(self.ctx)
        self._device = TorchDevice(self._torch, self.ctx.request.device, self.ctx.job.precision)
        import_torchvision()
        self._import_compiler()
        self._model.module()

    def _import_compiler(self) -> None:
        _import_strict()
        kind = short_digest({"host": self._host, "versions": versions("torch")}, 24)
        inductor.keep_headers(os.path.join(self.ctx.cache.root, "inductor_headers", kind))

    def _compile(self, size: int, path: str) -> Dict[str, Any]:
        """Compile for one batch size into an empty cache directory, and keep the directory."""
        torch = self._torch
        from torch._inductor.utils import fresh_inductor_cache

        torch._dynamo.reset()
        with fresh_inductor_cache(dir=os.path.dirname(path)):
            if not self._on_gpu:
                self._compile_only(size)
                return {"kernels": inductor.pack(os.environ["TORCHINDUCTOR_CACHE_DIR"], path)}
            with inductor.compiling_in(self._directory(size)) as directory:
                self._compile_and_run(size)
                return {"kernels": inductor.pack(directory, path)}

    def _compile_only(self, size: int) -> None:
        """Compile without running, so that no batch is too large to be compiled."""
        module = self._copy()
        try:
            with self._torch.inference_mode():
                self._compiled(module, inductor.compile_only(self._mode))(self._example(size))
        except inductor.Compiled:
            return
        except Exception as error:
            raise inductor.explained(error) from error
        raise _fell_back()

    def _compile_and_run(self, size: int) -> None:
        """Compile on the GPU and run once, which chooses among kernels. Raises BuildOutOfMemory."""
        graphs = inductor.counts()["graphs"]
        try:
            module = self._copy()
            with self._fp32_as_measured(), self._torch.inference_mode():
                self._compiled(module, "inductor", self._mode)(self._example(size))
                self._device.synchronize()
            if inductor.counts()["graphs"] != graphs + 1:
                raise _fell_back()
        except Exception as error:
            if is_out_of_memory(error):
                raise BuildOutOfMemory(
                    "memory ran out while Inductor compiled and tried batch {}: {}".format(size, error),
                    "Use a smaller batch, or a device with more memory.",
                ) from error
            raise inductor.explained(error) from error
        finally:
            self._torch._dynamo.reset()
            self._torch.cuda.empty_cache()

    @contextlib.contextmanager
    def _fp32_as_measured(self) -> Iterator[None]:
        """TF32 on for tf32: compiled code is found again only under the switch that it was compiled with."""
        if self.ctx.job.precision == "tf32":
            use_tf32(self._torch)
        try:
            yield
        finally:
            import_torch(self.ctx)  # strict again, as the reference of this process must be

    def _copy(self) -> Any:
        """A copy in the precision asked for: the reference is computed from the module itself."""
        module = copy.deepcopy(self._model.module()).to(self._dtype()).to(self._device.name)
        return module.to(memory_format=self._torch.channels_last) if self._channels_last else module

    def _compiled(self, module: Any, backend: Any, mode: Optional[str] = None) -> Any:
        more = {"mode": mode} if mode else {}
        return self._torch.compile(module, backend=backend, fullgraph=True, dynamic=self._dynamic, **more)

    def _example(self, size: int) -> Any:
        """An input to compile for: its values play no part."""
        shape = (size, *self.ctx.job.model.input_shape)
        dtype = self._dtype() if self.ctx.job.model.sequence is None else self._torch.int32
        tensor = self._torch.zeros(shape, dtype=dtype, device=self._device.name)
        return tensor.contiguous(memory_format=self._torch.channels_last) if self._channels_last else tensor


def _check_mode(mode: Any, on_gpu: bool) -> None:
    if mode == "reduce-overhead" and not on_gpu:
        raise Unsupported(
            "mode reduce-overhead is CUDA graphs, which a CPU does not have: it would run as `default`",
            "Use `default` or `max-autotune`.",
            "mode-unsupported",
        )
    known = _GPU_MODES if on_gpu else _MODES
    if mode not in known:
        raise Unsupported(
            "option mode is {}, not {!r}".format(" or ".join(known), mode), "Leave it out.", "mode-unsupported"
        )


def _import_strict() -> None:
    torch = require("torch")
    if not hasattr(torch, "compile"):
        raise Unsupported(
            "torch {} has no torch.compile".format(torch.__version__), "Use a stack with torch 2.8 or newer."
        )
    import torch._dynamo.config as dynamo
    import torch._inductor.compile_fx
    import torch._inductor.config as config

    dynamo.suppress_errors = False  # True would run in eager what cannot be compiled
    config.fx_graph_cache = True
    config.force_disable_caches = False


def _assert_compiled(counts: Dict[str, int], new_kernels: int) -> None:
    """Raise unless one graph, the whole model, was taken from the cache and nothing ran in eager or was compiled."""
    if counts["graphs"] != 1 or counts["graph_breaks"]:
        raise _fell_back(" ({graphs} graphs, {graph_breaks} graph breaks)".format(**counts))
    if counts["compiled_anew"] or not counts["loaded"] or new_kernels:
        raise NotPrepared(
            "Inductor did not take the prepared code and compiled {} kernels anew: {}".format(new_kernels, counts),
            "Something that compiled code depends on changed since it was prepared; run the job again.",
        )


def _assert_cuda_graphs(mode: str, counts: Dict[str, int]) -> None:
    """Raise where CUDA graphs are what was asked for and Inductor left them out, which it only logs."""
    if mode == "reduce-overhead" and counts["cuda_graphs_skipped"]:
        raise SettingNotHeld(
            "mode reduce-overhead was asked for and Inductor made no CUDA graph of the model",
            "The run's log says why; the mode `default` is what would be measured.",
        )


def _fell_back(found: str = "") -> ProviderFellBack:
    return ProviderFellBack(
        "torch.compile compiled no whole model and left it to eager execution" + found,
        "Look for TORCHDYNAMO_DISABLE and TORCH_COMPILE_DISABLE in the stack's environment.",
    )
