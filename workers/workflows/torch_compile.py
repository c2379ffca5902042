# SPDX-License-Identifier: Apache-2.0
"""torch.compile with Inductor on the CPU: what a PyTorch user would try first to make a model faster.

It compiles at the first call. Here prepare compiles, in its stage `build`, once for each batch size; the measuring
process takes that from the farm's cache while it loads, so its first inference is an inference.
"""

import copy
import functools
import os
import shutil
from typing import Any, Dict, Optional

from farm.contract.canonical import short_digest
from workers.workflows import archive, inductor, reference
from workers.workflows.base import Context, require, versions
from workers.workflows.cache import CachedFile
from workers.workflows.errors import NotPrepared, ProviderFellBack, Unsupported
from workers.workflows.pytorch import PyTorch
from workers.workflows.torch_setup import import_torch, import_torchvision

_DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
_MODES = ("default", "max-autotune")


class TorchCompile(PyTorch):
    """The module of `pytorch`, compiled as one whole graph."""

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self._mode = ctx.job.options.get("mode", "default")
        self._dynamic = ctx.job.options.get("dynamic", False)
        self._directory = os.path.join(ctx.control_dir, "inductor")
        self._host: Dict[str, Any] = {}
        self._counts: Dict[str, int] = {}

    def setup(self) -> None:
        """Refuse modes that cannot work and hosts without a compiler, before torch is imported."""
        _check_mode(self._mode)
        if not isinstance(self._dynamic, bool):
            raise Unsupported("option dynamic is true or false, not {!r}".format(self._dynamic))
        self._host = inductor.host_key()
        if not self.ctx.preparing:
            # Compiling is over: no pool of compilers beside what is measured.
            os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
        super().setup()
        if not self.ctx.preparing:
            self._import_compiler()

    def prepare(self) -> None:
        """Make the weights, the compiled code of each batch size and the reference outputs."""
        sizes = self.ctx.job.batches.sizes
        with self.ctx.stage("load_model"):
            self._model.weights()
        with self.ctx.stage("build"):
            for i, size in enumerate(sizes):
                self._code(size)
                self.ctx.progress((i + 1) / len(sizes))
        with self.ctx.stage("reference"):
            reference.prepare_torch(self.ctx, self._model)

    def find(self) -> None:
        """The state dict and the compiled code, unpacked where Inductor will look."""
        super().find()
        archive.unpack(self._code(self.ctx.batch_size).path, self._directory)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = self._directory

    def load(self) -> None:
        """Build the module, load its weights, have it compiled (from the cache) by one call, and hold it to that."""
        super().load()
        compiled = self._compiled(self._module, "inductor", self._mode)
        try:
            compiled(self._example(self.ctx.batch_size))
        except Exception as error:
            raise inductor.explained(error) from error
        self._counts = inductor.counts()
        new = inductor.kernel_count(self._directory) - self._code(self.ctx.batch_size).facts["kernels"]
        _assert_compiled(self._counts, new)
        import torch._dynamo.config as dynamo

        # A guard that fails later would compile inside a sample.
        dynamo.error_on_recompile = True
        self._module = compiled

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
        )

    def engine_bytes(self) -> int:
        """Size of the state dict and of the compiled code."""
        return super().engine_bytes() + self._code(self.ctx.batch_size).size_bytes

    def build_s(self) -> Optional[float]:
        """What compiling for this batch size took."""
        return self._code(self.ctx.batch_size).total_build_s

    def close(self) -> None:
        """Let the model go, and the unpacked code."""
        super().close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _code(self, size: int) -> CachedFile:
        return self.ctx.cached(
            "inductor", self._key(size), "inductor.zip", functools.partial(self._compile, size), ready=self._ready
        )

    def _key(self, size: int) -> Dict[str, Any]:
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
        import_torchvision()
        self._import_compiler()
        self._model.module()

    def _import_compiler(self) -> None:
        _import_strict()
        kind = short_digest({"host": self._host, "versions": versions("torch")}, 24)
        inductor.keep_headers(os.path.join(self.ctx.cache.root, "inductor_headers", kind))

    def _compile(self, size: int, path: str) -> Dict[str, Any]:
        """Compile for one batch size into an empty cache directory, without running it, and keep the directory."""
        torch = self._torch
        from torch._inductor.utils import fresh_inductor_cache

        # A copy: the reference is computed from the module itself.
        module = self._converted(copy.deepcopy(self._model.module()))
        torch._dynamo.reset()
        with fresh_inductor_cache(dir=os.path.dirname(path)):
            try:
                with torch.inference_mode():
                    self._compiled(module, inductor.compile_only(self._mode))(self._example(size))
            except inductor.Compiled:
                pass
            except Exception as error:
                raise inductor.explained(error) from error
            else:
                raise _fell_back()
            return {"kernels": inductor.pack(os.environ["TORCHINDUCTOR_CACHE_DIR"], path)}

    def _converted(self, module: Any) -> Any:
        module = module.to(self._dtype())
        return module.to(memory_format=self._torch.channels_last) if self._channels_last else module

    def _compiled(self, module: Any, backend: Any, mode: Optional[str] = None) -> Any:
        more = {"mode": mode} if mode else {}
        return self._torch.compile(module, backend=backend, fullgraph=True, dynamic=self._dynamic, **more)

    def _example(self, size: int) -> Any:
        """An input to compile for: its values play no part."""
        tensor = self._torch.zeros((size, *self.ctx.job.model.input_shape), dtype=self._dtype())
        return tensor.contiguous(memory_format=self._torch.channels_last) if self._channels_last else tensor

    def _dtype(self) -> Any:
        return getattr(self._torch, _DTYPES[self.ctx.job.precision])


def _check_mode(mode: Any) -> None:
    if mode == "reduce-overhead":
        raise Unsupported(
            "mode reduce-overhead is CUDA graphs, which a CPU does not have: it would run as `default`",
            "Use `default` or `max-autotune`.",
            "mode-unsupported",
        )
    if mode not in _MODES:
        raise Unsupported(
            "option mode is {}, not {!r}".format(" or ".join(_MODES), mode), "Leave it out.", "mode-unsupported"
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


def _fell_back(found: str = "") -> ProviderFellBack:
    return ProviderFellBack(
        "torch.compile compiled no whole model and left it to eager execution" + found,
        "Look for TORCHDYNAMO_DISABLE and TORCH_COMPILE_DISABLE in the stack's environment.",
    )
