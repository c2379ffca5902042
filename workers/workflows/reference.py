# SPDX-License-Identifier: Apache-2.0
"""The reference outputs, and how far a run's outputs are from them.

For torchvision models the reference is PyTorch fp32 on the same weights; for ONNX files it is ONNX Runtime's CPU
provider in fp32 on the original file. Prepare computes it for every batch size, from the first measuring input.
"""

import functools
from typing import Any, Callable, Dict, List, Optional, Tuple

from farm.contract.job import Protocol
from farm.contract.metrics import METRICS
from farm.contract.run import Mismatch
from workers.workflows import datasets
from workers.workflows.base import Context, versions
from workers.workflows.cache import CachedFile
from workers.workflows.errors import WorkflowError, is_out_of_memory
from workers.workflows.inputs import measuring_inputs

Outputs = List[Tuple[str, Any]]
#: A reference needs no more memory than a batch of this size, however long the ladder is.
MOST_AT_ONCE = 32
RECIPE = 1
#: What `compare` holds outputs against, as `facts` tells it: both engines run on the host's processors in fp32.
DEVICE, PRECISION = "cpu", "fp32"


def prepare_torch(ctx: Context, model: Any) -> None:
    """Make the reference of each batch size of the ladder with PyTorch; `model` is a `TorchModel`."""
    _prepare(ctx, torch_key(ctx, model.key()), lambda: _torch_forward(ctx, model), ctx.job.batches.sizes)


def torch_key(ctx: Context, model_key: Dict[str, Any]) -> Dict[str, Any]:
    """The part of a reference's key that names the model and what runs it."""
    return {"engine": "pytorch", "model": model_key, "versions": versions("torch", "numpy"), "threads": ctx.threads}


def prepare_with(ctx: Context, key: Dict[str, Any], forward: Callable[[], Callable[[Any], Outputs]]) -> None:
    """Make the references with what `forward` gives; `key` is as that of `torch_key`."""
    _prepare(ctx, key, forward, ctx.job.batches.sizes)


def prepare_onnx(ctx: Context, path: str, sha256: str, fixed_batch: Optional[int]) -> None:
    """Make the references with ONNX Runtime on the original file; only for its batch where that is fixed."""
    sizes = tuple(size for size in ctx.job.batches.sizes if fixed_batch in (None, size))
    _prepare(ctx, onnx_key(ctx, sha256), lambda: _onnx_forward(ctx, path), sizes, fixed_batch or MOST_AT_ONCE)


def onnx_key(ctx: Context, sha256: str) -> Dict[str, Any]:
    """As `torch_key`, for an ONNX file."""
    return {
        "engine": "onnxruntime_cpu",
        "model": sha256,
        "versions": versions("onnxruntime", "numpy"),
        "threads": ctx.threads,
    }


def facts(key: Dict[str, Any]) -> Dict[str, Any]:
    """For `effective`: by which workflow, in which precision, on which device and with what a reference was made."""
    return {
        "reference_workflow": key["engine"],
        "reference_precision": PRECISION,
        "reference_device": DEVICE,
        "reference_threads": key["threads"],
        "reference_versions": key["versions"],
    }


def stored(ctx: Context, key: Dict[str, Any]) -> CachedFile:
    """The reference's file for the batch size that is measured. Raises NotPrepared where prepare made none."""

    def refuse(path: str) -> Dict[str, Any]:
        raise WorkflowError("a reference is made in prepare only")

    return ctx.cached("reference", _batch_key(ctx, key, ctx.batch_size), "reference.npz", refuse)


def compare(ctx: Context, outputs: Outputs, key: Dict[str, Any]) -> List[Mismatch]:
    """Compare each output with the stored reference for this batch size, and tell the context which one that was.

    Raises:
        NotPrepared: there is none.
        WorkflowError: outputs differ in name, number or shape.
    """
    import numpy as np

    entry = stored(ctx, key)
    names = entry.facts["outputs"]
    with np.load(entry.path, allow_pickle=False) as archive:
        expected = [archive[_array_name(i)] for i in range(len(names))]
    if len(names) != len(outputs):
        raise WorkflowError("the model gave {} outputs, the reference {}".format(len(outputs), len(names)))
    ctx.reference = dict(facts(key), reference_sha256=entry.sha256)
    return [mismatch(name, got, want, ctx.job.protocol) for name, (_, got), want in zip(names, outputs, expected)]


def mismatch(name: str, test: Any, reference: Any, protocol: Protocol) -> Mismatch:
    """How far `test` is from `reference`, both float arrays of one shape, samples first.

    An element is close when |test - reference| <= atol + rtol |reference| (numpy.isclose, reference second). NaN and
    infinities are never close; they are counted, and the errors and the cosine are over the other elements.

    Raises:
        WorkflowError: the shapes differ.
    """
    import numpy as np

    if test.shape != reference.shape:
        raise WorkflowError("output {} has shape {}, its reference {}".format(name, test.shape, reference.shape))
    test, reference = test.astype(np.float64), reference.astype(np.float64)
    finite = np.isfinite(test) & np.isfinite(reference)
    error, base = test[finite] - reference[finite], reference[finite]
    bounds = {rtol: protocol.atol + rtol * np.abs(base) for rtol in protocol.rtols}
    far = {rtol: test.size - int((np.abs(error) <= bound).sum()) for rtol, bound in bounds.items()}
    return Mismatch(
        output=name,
        percent={rtol_text(rtol): 100.0 * far[rtol] / max(test.size, 1) for rtol in protocol.rtols},
        max_abs_error=float(np.abs(error).max()) if error.size else 0.0,
        mean_abs_error=float(np.abs(error).mean()) if error.size else None,
        cosine_similarity=_cosine(test[finite], base),
        relative_l2_error=_ratio(float(np.linalg.norm(error)), float(np.linalg.norm(base))),
        top1_agreement=_top1_agreement(test, reference),
        nonfinite_count=int((~np.isfinite(test)).sum()),
        element_count=int(test.size),
        reference_nonfinite_count=int((~np.isfinite(reference)).sum()),
    )


def metrics(found: List[Mismatch]) -> Dict[str, float]:
    """The comparison as metrics: over all elements where it is a share, the worst output where it is an error.

    A tolerance without a row in the metric table is in the mismatch alone. Errors and cosine are left out where values
    are not finite: over the rest alone they would flatter.
    """
    values: Dict[str, float] = {}
    total = sum(m.element_count for m in found)
    for text in found[0].percent if found and total else {}:
        name = "mismatch_{}_pct".format(text)
        if name in METRICS:
            values[name] = sum(m.percent[text] * m.element_count for m in found) / total
    agreements = [m.top1_agreement for m in found if m.top1_agreement is not None]
    if agreements:
        values["top1_agreement"] = min(agreements)
    if found and not any(m.nonfinite_count or m.reference_nonfinite_count for m in found):
        values.update(_worst(found))
    return values


def _worst(found: List[Mismatch]) -> Dict[str, float]:
    """The largest of each error and the smallest cosine; an output that has none is passed over."""
    values = {"relative_l2_error": max(m.relative_l2_error for m in found)}
    values["max_abs_error"] = max(m.max_abs_error for m in found)
    means = [m.mean_abs_error for m in found if m.mean_abs_error is not None]
    cosines = [m.cosine_similarity for m in found if m.cosine_similarity is not None]
    if means:
        values["mean_abs_error"] = max(means)
    if cosines:
        values["cosine_similarity"] = min(cosines)
    return values


def rtol_text(rtol: float) -> str:
    """How a tolerance is written in names of metrics: 0.001 -> `1e-3`, 0.025 -> `2.5e-2`."""
    mantissa, _, exponent = "{:e}".format(rtol).partition("e")
    return "{}e{}".format(mantissa.rstrip("0").rstrip("."), int(exponent))


def _ratio(error: float, base: float) -> float:
    return error / max(base, 1e-30)


def _cosine(test: Any, reference: Any) -> Optional[float]:
    """Between two finite vectors; None where either has no direction."""
    import numpy as np

    # Scaled first, so that neither the squares of large values nor those of small ones leave the range of a float.
    largest = [float(np.abs(values).max()) if values.size else 0.0 for values in (test, reference)]
    if not all(largest):
        return None
    test, reference = test / largest[0], reference / largest[1]
    cosine = float(np.dot(test, reference) / (np.linalg.norm(test) * np.linalg.norm(reference)))
    return min(max(cosine, -1.0), 1.0)  # rounding may leave it by the last digit


def _top1_agreement(test: Any, reference: Any) -> Optional[float]:
    import numpy as np

    if test.ndim != 2 or test.shape[1] < 2 or test.shape[0] == 0:
        return None
    # A row with a NaN has no largest value; argmax would name the NaN.
    rows = np.isfinite(test).all(axis=1) & (test.argmax(axis=1) == reference.argmax(axis=1))
    return float(rows.mean())


def _array_name(index: int) -> str:
    return "output_{}".format(index)


def _prepare(
    ctx: Context,
    key: Dict[str, Any],
    forward: Callable[[], Callable[[Any], Outputs]],
    sizes: Tuple[int, ...],
    most: int = MOST_AT_ONCE,
) -> None:
    made: List[Callable[[Any], Outputs]] = []

    def build(size: int, path: str) -> Dict[str, Any]:
        import numpy as np

        if not made:
            made.append(forward())
        arrays = in_slices(made[0], measuring_inputs(ctx.job, size, 1)[0], most)
        with open(path, "wb") as stream:
            np.savez(stream, **{_array_name(i): array for i, (_, array) in enumerate(arrays)})
        return {"outputs": [name for name, _ in arrays]}

    for i, size in enumerate(sizes):
        ctx.cached("reference", _batch_key(ctx, key, size), "reference.npz", functools.partial(build, size))
        ctx.progress((i + 1) / len(sizes))


def _batch_key(ctx: Context, key: Dict[str, Any], size: int) -> Dict[str, Any]:
    job = ctx.job
    own = {"recipe": RECIPE, "data": datasets.identity(job, "test"), "batch": size}
    return dict(key, **own, shape=list(job.model.input_shape))


def in_slices(forward: Callable[[Any], Outputs], whole: Any, most: int = MOST_AT_ONCE) -> Outputs:
    """Run `forward` over slices of the batch, smaller ones when memory runs out, and join what it gives."""
    import numpy as np

    while True:
        try:
            parts = [forward(whole[start : start + most]) for start in range(0, len(whole), most)]
            break
        except Exception as error:
            if most == 1 or not is_out_of_memory(error):
                raise
            most = max(min(most, len(whole)) // 2, 1)
    if len(parts) == 1:
        return parts[0]
    return [(name, np.concatenate([part[i][1] for part in parts])) for i, (name, _) in enumerate(parts[0])]


def _torch_forward(ctx: Context, model: Any) -> Callable[[Any], Outputs]:
    module = model.module()

    def forward(batch: Any) -> Outputs:
        import torch

        with torch.inference_mode():
            return [("output", module(torch.from_numpy(batch)).numpy())]

    return forward


def _onnx_forward(ctx: Context, path: str) -> Callable[[Any], Outputs]:
    from workers.workflows.onnx_session import open_session

    session = open_session(path, ctx.threads)
    names = [output.name for output in session.get_outputs()]
    feed = session.get_inputs()[0].name

    def forward(batch: Any) -> Outputs:
        return list(zip(names, session.run(names, {feed: batch})))

    return forward
