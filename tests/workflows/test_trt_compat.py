# SPDX-License-Identifier: Apache-2.0
"""TensorRT's calls held against the names of each version's own binding. The lists are real; no GPU is involved."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.docs.tables import ROOT
from tests.factories import make_job
from workers.workflows import trt_compat
from workers.workflows.errors import PrecisionNotHeld, Unsupported, WorkflowError
from workers.workflows.trt_compat import Log, check, check_implicit_int8, features
from workers.workflows.trt_graph import strongly_typed
from workers.workflows.trt_inspect import held_precision, tactics_sha256, tensor_formats
from workers.workflows.trt_names import OPTIONAL, REQUIRED

LISTS = {path.stem: json.loads(path.read_text()) for path in (Path(__file__).parent / "trt_api").glob("*.json")}
#: Names that TensorRT's classes share with all the world.
COMMON = {
    "name",
    "dtype",
    "type",
    "errors",
    "path",
    "build",
    "run",
    "reset",
    "value",
    "shape",
    "append",
    "format",
    "engine",
    "logger",
    "precision",
    "flags",
}
VERSIONS = sorted(LISTS, key=lambda text: [int(part) for part in text.split(".")])


def number(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def module(version: str) -> Any:
    """A stand-in for the `tensorrt` of a version: its names, nothing behind them."""
    kinds = {name: type(name, (), dict.fromkeys(names)) for name, names in LISTS[version].items()}
    return SimpleNamespace(__version__=version, **kinds)


def test_the_lists_cover_what_is_claimed() -> None:
    assert {number(version)[0] for version in VERSIONS} == {8, 10, 11}
    assert number(VERSIONS[0]) == (8, 5)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_name_that_is_called_without_asking_is_in_every_version(version: str) -> None:
    names = LISTS[version]
    lacks = [f"{kind}.{n}" for kind, needed in REQUIRED.items() for n in needed if n not in names.get(kind, ())]
    assert lacks == []


@pytest.mark.parametrize("version", VERSIONS)
def test_every_optional_name_is_where_it_is_said_to_be(version: str) -> None:
    names, wrong = LISTS[version], []
    for kind, table in OPTIONAL.items():
        for name, (first, last) in table.items():
            expected = (first or (0, 0)) <= number(version) <= (last or (99, 99))
            if (name in names.get(kind, ())) != expected:
                wrong.append(f"{kind}.{name}")
    assert wrong == []


def test_every_call_of_tensorrt_is_in_the_tables_and_in_trt_compat_alone() -> None:
    listed = {n for names in (*REQUIRED.values(), *OPTIONAL.values()) for n in names} | {*REQUIRED, *OPTIONAL}
    known = {n for kinds in LISTS.values() for kind, names in kinds.items() for n in (kind, *names)} - COMMON
    for path in (ROOT / "workers/workflows").glob("*.py"):
        used = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        if path.name == "trt_compat.py":
            assert (used & known) - listed == set()
        elif path.name.startswith(("trt_", "onnx_tensorrt")):
            # The calibrator is a class of TensorRT's own kind, and knows its batch.
            assert (used & known) - {"get_batch_size"} == set(), path.name


@pytest.mark.parametrize(
    ("version", "fp16", "int8", "strong_only", "level"),
    [
        ("8.5.3.1", True, True, False, False),
        ("8.6.0", True, True, False, True),
        ("10.16.1.11", True, True, False, True),
        ("11.4.0.106", False, False, True, True),
    ],
)
def test_features_follow_from_the_names(version: str, fp16: bool, int8: bool, strong_only: bool, level: bool) -> None:
    found = features(module(version))
    assert (found["fp16_flag"], found["implicit_int8"]) == (fp16, int8)
    assert (found["strongly_typed_only"], found["optimization_level"]) == (strong_only, level)
    assert found["named_tensors"]


def test_what_a_version_cannot_do_is_refused_with_the_way_out() -> None:
    check(module("8.6.0"), 3)
    check(module("11.4.0.106"), 5)
    for version, strong in (("11.0.0.114", False), ("10.16.1.11", True)):
        with pytest.raises(Unsupported) as caught:
            check_implicit_int8(module(version), "entropy", strong)
        assert caught.value.reference == "strongly-typed-only"
        assert "quantization: explicit" in (caught.value.hint or "")
    with pytest.raises(Unsupported, match="optimization level"):
        check(module("8.5.3.1"), 3)
    with pytest.raises(Unsupported, match="percentile"):
        check_implicit_int8(module("10.16.1.11"), "percentile")


@pytest.mark.parametrize(
    ("version", "options", "strong"),
    [
        ("8.6.0", {}, False),
        ("10.16.1.11", {}, False),
        ("10.0.1", {"typing": "strong"}, True),
        ("11.4.0.106", {}, True),
        ("11.4.0.106", {"typing": "strong"}, True),
        ("8.6.0", {"allow_fp16": True}, False),
    ],
)
def test_networks_are_strongly_typed_where_it_is_asked_for_or_there_is_nothing_else(
    version: str, options: dict[str, Any], strong: bool
) -> None:
    assert strongly_typed(make_job(options=options), features(module(version))) is strong


@pytest.mark.parametrize(
    ("version", "options", "reference"),
    [
        ("8.6.0", {"typing": "strong"}, "tensorrt-too-old"),
        ("8.5.3.1", {"typing": "strong"}, "tensorrt-too-old"),
        ("10.0.1", {"typing": "strong", "allow_fp16": True}, "strongly-typed-only"),
        ("11.0.0.114", {"allow_fp16": True}, "strongly-typed-only"),
    ],
)
def test_what_does_not_go_with_strong_typing_is_refused(version: str, options: dict[str, Any], reference: str) -> None:
    with pytest.raises(Unsupported) as caught:
        strongly_typed(make_job(options=options), features(module(version)))
    assert caught.value.reference == reference
    assert caught.value.hint


class _Logger:
    Severity = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2, INFO=3)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("Error Code 2: OutOfMemory (no further information)", MemoryError),
        ("Requested amount of GPU memory (8589934592 bytes) could not be allocated.", MemoryError),
        ("Error Code 4: Internal Error (Could not find any implementation for node)", WorkflowError),
    ],
)
def test_a_call_that_gave_nothing_is_explained_by_the_messages(words: str, kind: type[Exception]) -> None:
    log = Log(SimpleNamespace(ILogger=_Logger))
    log.logger.log(3, "chatter")
    log.logger.log(1, words)
    found = log.failure("TensorRT built no engine")
    assert type(found) is kind
    assert words in str(found)


def _parser(*codes: str, named: bool) -> Any:
    def error(i: int, code: str) -> Any:
        fields = {"node": i, "code": code, "desc": "no importer", "file": "p.cpp", "line": 7}
        more = {"node_name": "/conv", "node_operator": "Wild"} if named else {}
        return SimpleNamespace(**{k: (lambda value=v: value) for k, v in (fields | more).items()})

    return SimpleNamespace(num_errors=len(codes), get_error=lambda i: error(i, codes[i]))


@pytest.mark.parametrize("named", [True, False])
def test_parser_errors_are_told_node_by_node(named: bool) -> None:
    trt = SimpleNamespace(__version__="x")
    parser = _parser("ErrorCode.UNSUPPORTED_NODE", "ErrorCode.INVALID_NODE", named=named)
    found = trt_compat._parser_failed(trt, parser, SimpleNamespace(errors=[]))  # type: ignore[arg-type]
    assert (found.outcome, found.reference) == ("unsupported", "parser-failed")
    assert "node 0" in str(found.__cause__)
    assert "node 1" in str(found.__cause__)
    assert ("'/conv' (Wild)" in found.message) is named
    broken = trt_compat._parser_failed(
        trt,
        _parser("ErrorCode.MODEL_DESERIALIZE_FAILED", named=named),
        SimpleNamespace(errors=[]),  # type: ignore[arg-type]
    )
    assert (broken.outcome, broken.reference) == ("failed", "parser-failed")


def inspector(*types: str) -> str:
    return json.dumps({"Layers": [{"Name": "l", "Outputs": [{"Format/Datatype": words}]} for words in types]})


def test_the_inspectors_formats_are_counted() -> None:
    text = inspector(
        "Row major linear FP32",
        "Channel major FP16 format where channel % 8 == 0",
        "Thirty-two wide channel vectorized row major Int8 format",
        "Half",
        "Int32",
    )
    assert tensor_formats(text) == {"fp32": 1, "fp16": 2, "int8": 1, "other": 1}
    assert tensor_formats('{"Layers": ["conv1"]}') == {}
    assert tensor_formats("no JSON") == {}


def detailed(**changes: Any) -> dict[str, Any]:
    """A layer as a detailed engine's inspector tells it."""
    tensor = {"Name": "t", "Location": "Device", "Dimensions": [1, 64], "Format/Datatype": "Row major linear FP32"}
    layer = {"Name": "conv1", "LayerType": "CaskConvolution", "Inputs": [tensor], "Outputs": [dict(tensor)]}
    return layer | {"TacticName": "sm80_xmma_fprop", "TacticValue": "0x9cb304e2edbc1221", "StreamId": 0} | changes


def test_equal_tactics_have_one_digest_and_a_change_of_kernel_another() -> None:
    def of(*layers: Any) -> str | None:
        return tactics_sha256(json.dumps({"Layers": list(layers), "Bindings": ["x"]}))

    assert of(detailed()) == of(detailed(StreamId=3)) is not None
    others = [
        of(detailed(TacticName="sm80_other")),
        of(detailed(TacticValue="0x1")),
        of(detailed(Name="conv2")),
        of(detailed(Outputs=[{"Format/Datatype": "Half"}])),
        of(detailed(), detailed()),
        of("conv1", "conv2"),
        of("conv2", "conv1"),
    ]
    assert len({*others, of(detailed())}) == len(others) + 1


@pytest.mark.parametrize("text", ["no JSON", "[]", "{}", '{"Layers": null}', '{"Layers": []}'])
def test_an_inspector_that_names_no_layer_gives_no_digest(text: str) -> None:
    assert tactics_sha256(text) is None
    assert tensor_formats(text) == {}


def test_what_tensorrt_8_6_writes_is_read_though_it_is_no_strict_json() -> None:
    """Cut from an engine of TensorRT 8.6.0 on an H200: a bare U+001E stands between the names of two ONNX layers."""
    text = """{"Layers": [{
  "Name": "/conv1/Conv + /relu/Relu",
  "LayerType": "CaskConvolution",
  "Outputs": [
  {
    "Name": "/relu/Relu_output_0",
    "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"
  }],
  "TacticName": "sm80_xmma_fprop_implicit_gemm_indexed_f16f16_f16f16_f16_nhwckrsc_nhwc",
  "TacticValue": "0x280b0ad3c23d8442",
  "Metadata": "[ONNX Layer: /conv1/Conv]\x1e[ONNX Layer: /relu/Relu]"
}],
"Bindings": ["input"]}"""
    with pytest.raises(ValueError, match="control character"):
        json.loads(text)
    assert tensor_formats(text) == {"fp32": 0, "fp16": 1, "int8": 0, "other": 0}
    assert tactics_sha256(text) is not None


def test_layers_of_an_odd_form_do_not_end_the_run() -> None:
    odd = json.dumps({"Layers": [{"Name": "x", "Inputs": None, "Outputs": ["t"]}, 3, None]})
    assert tactics_sha256(odd) is not None
    assert tensor_formats(odd) == {}


FLAGS = {"tf32": False, "fp16": False, "int8": False}
PLAIN = {"quantize": 0}


@pytest.mark.parametrize(
    ("flags", "onnx", "held"),
    [
        ({}, PLAIN, "fp32"),
        ({"tf32": True}, PLAIN, "tf32"),
        ({"fp16": True}, PLAIN, "fp16"),
        ({"int8": True, "fp16": True}, PLAIN, "int8"),
        ({"int8": None, "fp16": None}, {"quantize": 3}, "int8"),
        ({"int8": None, "fp16": None}, PLAIN, "fp32"),
    ],
)
def test_the_precision_held_follows_from_the_flags(flags: dict[str, Any], onnx: dict[str, Any], held: str) -> None:
    assert held_precision(FLAGS | flags, {}, onnx) == held


@pytest.mark.parametrize(
    ("onnx", "held"), [(PLAIN, "fp32"), (PLAIN | {"compute_half": 3}, "fp16"), ({"quantize": 3}, "int8")]
)
def test_of_a_strongly_typed_network_the_graph_tells_the_precision(onnx: dict[str, Any], held: str) -> None:
    assert held_precision(FLAGS, {}, onnx, strong=True) == held


@pytest.mark.parametrize(
    ("flags", "formats"),
    [
        ({"fp16": True}, ["FP32"]),
        ({"int8": True}, ["FP32", "FP16"]),
        ({}, ["FP32", "FP16"]),
        ({"tf32": True}, ["Int8"]),
    ],
)
def test_an_engine_that_runs_otherwise_than_asked_is_a_failure(flags: dict[str, Any], formats: list[str]) -> None:
    with pytest.raises(PrecisionNotHeld):
        held_precision(FLAGS | flags, tensor_formats(inspector(*formats)), PLAIN)
