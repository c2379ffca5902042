# SPDX-License-Identifier: Apache-2.0
"""Every kind of mistake in a sweep is named with its place, the value and the way out; all of them at once."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sweep.conftest import Faults

FIVE = """\
name: my sweep
protocol: quik
models: [resnet18, resnet5]
workflows:
  - pytorhc
precisions: [fp32]
batch: {start: 8, stop: 4}
"""


def test_five_mistakes_give_five_errors_with_their_paths_and_lines(faults: Faults) -> None:
    found = faults(FIVE)
    places = [problem.split("): ")[0] + ")" for problem in found]
    assert places == [
        "sweep.yaml: $.name (line 1)",
        "sweep.yaml: $.protocol (line 2)",
        "sweep.yaml: $.models[1] (line 3)",
        "sweep.yaml: $.workflows[0] (line 5)",
        "sweep.yaml: $.batch.stop (line 7)",
    ]
    assert "got 'quik'; allowed: quick, paper, nightly, rigorous; did you mean 'quick'?" in found[1]
    assert "did you mean 'resnet50'?" in found[2]
    assert "did you mean 'pytorch'?" in found[3]
    assert "got 4" in found[4]


MISTAKES: list[tuple[str, str, dict[str, Any]]] = [
    ("$.nmae", "did you mean 'name'?", {"nmae": "x"}),
    ("$.batch.fcator", "did you mean 'factor'?", {"batch": {"stop": 4, "fcator": 2}}),
    ("$.models[0].wieghts", "did you mean 'weights'?", {"models": [{"name": "resnet18", "wieghts": "default"}]}),
    ("$.exclude[0].modle", "did you mean 'model'?", {"exclude": [{"modle": "resnet18"}]}),
    ("$", "the key 'models' is missing", {"models": None}),
    ("$.models[0]", "the key 'name' is missing", {"models": [{"weights": "default"}]}),
    ("$.name", "starting with a letter or digit", {"name": "../../etc"}),
    ("$.name", "at most 100 characters", {"name": "x" * 101}),
    ("$.name", "must be text", {"name": 7}),
    ("$.models", "must be a list", {"models": "resnet18"}),
    ("$.models", "at least 1", {"models": []}),
    ("$.models[0]", "a name or a mapping", {"models": [7]}),
    ("$.models[1]", "there twice", {"models": ["resnet18", {"name": "resnet18", "weights": "default"}]}),
    ("$.models[0].weights", "random:SEED", {"models": [{"name": "resnet18", "weights": "random:x"}]}),
    ("$.models[0].input[1]", "at least 1", {"models": [{"name": "resnet18", "input": [3, 0, 224]}]}),
    ("$.models[0].name", "`onnx: FILE`", {"models": [{"name": "mine", "weights": "default"}]}),
    ("$.weights", "random:SEED", {"weights": "zero"}),
    ("$.workflows[0].latency_ms", "must be a number", {"workflows": [{"name": "fake", "latency_ms": "slow"}]}),
    ("$.workflows[0].latency_ms", "at least 0", {"workflows": [{"name": "fake", "latency_ms": -1}]}),
    ("$.workflows[0].from_batch", "whole number", {"workflows": [{"name": "fake", "from_batch": True}]}),
    ("$.workflows[0].behaviour", "did you mean 'raise'?", {"workflows": [{"name": "fake", "behaviour": "raize"}]}),
    ("$.workflows[0].latency", "did you mean 'latency_ms'?", {"workflows": [{"name": "fake", "latency": 1}]}),
    ("$.workflows[0].options", "stand beside the name", {"workflows": [{"name": "fake", "options": {"stage": "x"}}]}),
    ("$.workflows[1]", "there twice", {"workflows": ["fake", {"name": "fake", "latency_ms": 1}]}),
    ("$.precisions[0]", "did you mean 'fp16'?", {"precisions": ["fp_16"]}),
    ("$.precisions[1]", "there twice", {"precisions": ["fp32", "fp32"]}),
    ("$.precisions[0]", "none of the sweep's workflows (fake) runs it", {"precisions": ["bf16"]}),
    ("$.protocol.base", "did you mean 'quick'?", {"protocol": {"base": "quikc"}}),
    ("$.protocol.min_iteration", "did you mean 'min_iterations'?", {"protocol": {"base": "quick", "min_iteration": 1}}),
    ("$.protocol.min_iterations", "whole number", {"protocol": {"base": "quick", "min_iterations": 1.5}}),
    (
        "$.protocol.min_iterations",
        "more than max_iterations, 50",
        {"protocol": {"base": "paper", "min_iterations": 60}},
    ),
    (
        "$.protocol.warmup_min_s",
        "more than warmup_max_s, 30.0: set both",
        {"protocol": {"base": "nightly", "warmup_min_s": 31}},
    ),
    (
        "$.protocol.max_processes",
        "processes is 5, more than max_processes, 3: set both",
        {"protocol": {"base": "rigorous", "max_processes": 3}},
    ),
    ("$.protocol.boundary", "allowed: compute, end_to_end", {"protocol": {"base": "quick", "boundary": "all"}}),
    ("$.protocol.rtols[0]", "more than 0", {"protocol": {"base": "quick", "rtols": [0]}}),
    (
        "$.protocol.stage_limits_s.biuld",
        "did you mean 'build'?",
        {"protocol": {"base": "quick", "stage_limits_s": {"biuld": 3}}},
    ),
    ("$.batch", "at least 1", {"batch": 0}),
    ("$.batch[1]", "whole number", {"batch": [1, "2"]}),
    ("$.batch", "ascend", {"batch": [2, 1]}),
    ("$.batch.factor", "at least 2", {"batch": {"factor": 1, "stop": 4}}),
    ("$.batch", "'stop' is missing", {"batch": {"start": 4}}),
    ("$.batch.start", "either `sizes` or", {"batch": {"sizes": [1], "start": 4}}),
    ("$.batch.until[0]", "did you mean 'saturated'?", {"batch": {"stop": 4, "until": ["saturate"]}}),
    ("$.devices[0]", "must say which", {"devices": [{}]}),
    ("$.devices[0].id", "nothing may stand beside it", {"devices": [{"id": "a", "kind": "cpu"}]}),
    ("$.devices[0].kind", "allowed: cpu, gpu, soc", {"devices": [{"kind": "tpu"}]}),
    ("$.devices[0].cores", "a comparison", {"devices": [{"cores": [4]}]}),
    ("$.devices[0].cores", "only numbers and versions", {"devices": [{"cores": ">=many"}]}),
    ("$.devices[0].cores", "not a comparison", {"devices": [{"cores": ">="}]}),
    ("$.calibration", "`precisions` has no int8", {"calibration": {"samples": 8}}),
    (
        "$.calibration.method[0]",
        "did you mean 'entropy'?",
        {"precisions": ["int8"], "calibration": {"method": ["entropi"]}},
    ),
    ("$.calibration.percentile", "only the method", {"precisions": ["int8"], "calibration": {"percentile": 99.9}}),
    ("$.calibration.method[1]", "has it", {"precisions": ["int8"], "calibration": {"method": ["minmax", "mse"]}}),
    (
        "$.workflows[0].mode",
        "needs data with classes",
        {"precisions": ["int8"], "workflows": [{"name": "pytorch_quantization", "mode": "qat"}]},
    ),
    ("$.calibration", "more than the samples", {"precisions": ["int8"], "calibration": {"samples": 2}}),
    ("$.data", "allowed: uniform", {"data": "imagenett"}),
    ("$.data", "which says where the images are", {"data": "imagenet"}),
    ("$.data", "leave `data` out", {"data": "uniform", "weights": "digits:0", "accuracy": {"dataset": "digits"}}),
    ("$.weights", "1000 classes", {"data": "digits", "weights": "default"}),
    ("$.weights", "means nothing", {"weights": "random:1", "accuracy": {"dataset": "digits"}}),
    (
        "$.models[1].weights",
        "means nothing with weights default",
        {
            "models": [{"name": "resnet18", "weights": "digits:0"}, {"name": "resnet34", "weights": "default"}],
            "accuracy": {"dataset": "digits"},
        },
    ),
    (
        "$.models[0].input",
        "images",
        {"models": [{"name": "alexnet", "input": [64]}], "weights": "digits:0", "data": "digits"},
    ),
    (
        "$.calibration.samples",
        "1437 training images",
        {"precisions": ["int8"], "data": "digits", "calibration": {"samples": 1438}},
    ),
    ("$.seed", "at least 0", {"seed": -1}),
    ("$.accuracy", "needs `path`", {"accuracy": {"dataset": "imagenet"}}),
    ("$.accuracy.path", "absolute", {"accuracy": {"dataset": "imagenet", "path": "images"}}),
    ("$.accuracy.path", "comes with the farm", {"accuracy": {"dataset": "digits", "path": "/x"}}),
    ("$.accuracy.dataset", "digits", {"accuracy": {"dataset": "mnist"}}),
    ("$.accuracy.dataset", "use `digits:SEED`", {"accuracy": {"dataset": "digits"}}),
    ("$.accuracy.limit", "at least 1", {"weights": "digits:0", "accuracy": {"dataset": "digits", "limit": 0}}),
    ("$.accuracy.limt", "did you mean 'limit'", {"weights": "digits:0", "accuracy": {"dataset": "digits", "limt": 1}}),
    ("$.weights", "imagenet", {"weights": "digits:0", "accuracy": {"dataset": "imagenet", "path": "/data"}}),
    ("$.rebuilds", "onnx_tensorrt", {"rebuilds": 2}),
    ("$.rebuilds", "at least 1", {"rebuilds": 0}),
    ("$.rebuilds.count", "at most 100", {"rebuilds": {"count": 101}}),
    ("$.rebuilds.timing_cache", "no such timing cache", {"rebuilds": {"count": 2, "timing_cache": "warm"}}),
    ("$.rebuilds.cache", "unknown key", {"rebuilds": {"count": 2, "cache": "cold"}}),
    ("$.rebuilds", "the key 'count' is missing", {"rebuilds": {"timing_cache": "cold"}}),
    ("$.exclude[0].workflow", "leave nothing out", {"exclude": [{"workflow": "pytorch"}]}),
    ("$.exclude[0]", "must name", {"exclude": [{}]}),
    ("$.exclude", "leaves nothing to measure", {"exclude": [{"workflow": "fake"}]}),
    ("$.priority", "at most 9", {"priority": 10}),
    (
        "$",
        "at most 100000",
        {
            "models": ["resnet18", "resnet34"],
            "precisions": ["int8"],
            "workflows": [{"name": "fake", "latency_ms": i} for i in range(200)],
            "calibration": {"method": ["minmax", "entropy", "percentile"], "samples": 999, "batch": [*range(1, 90)]},
        },
    ),
]


@pytest.mark.parametrize(("place", "words", "keys"), MISTAKES, ids=[f"{m[0]}: {m[1]}" for m in MISTAKES])
def test_a_mistake_is_one_error_that_says_where_and_what(
    faults: Faults, place: str, words: str, keys: dict[str, Any]
) -> None:
    (problem,) = faults(**keys)
    assert problem.startswith((f"sweep.yaml: {place} (line ", f"sweep.yaml: {place}: "))
    assert words in problem
    assert len(problem) < 400


def test_mistakes_of_different_kinds_are_all_told_together(faults: Faults) -> None:
    found = faults(
        models=["resnet18", "resnet18"],
        precisions=["fp32"],
        batch={"stop": 1, "start": 2, "fcator": 3},
        calibration={"samples": 8},
        exclude=[{"model": "resnet50"}],
        priority=99,
    )
    places = sorted(problem.split(" (line")[0].removeprefix("sweep.yaml: ") for problem in found)
    assert places == [
        "$.batch.fcator",
        "$.batch.stop",
        "$.calibration",
        "$.exclude[0].model",
        "$.models[1]",
        "$.priority",
    ]


def test_a_key_without_a_value_is_named(faults: Faults) -> None:
    (problem,) = faults("name: a\nmodels: [resnet18]\nworkflows: [fake]\nseed:\n")
    assert problem.startswith("sweep.yaml: $.seed (line 4): has no value")


def test_a_key_that_is_there_twice_is_named_with_both_lines(faults: Faults) -> None:
    found = faults("name: a\nmodels: [resnet18]\nname: b\nworkflows: [fake]\nbatch: {stop: 4,\n  stop: 8}\n")
    assert found == [
        "sweep.yaml: $.name (line 1): the key is there twice (lines 1 and 3)",
        "sweep.yaml: $.batch.stop (line 5): the key is there twice (lines 5 and 6)",
    ]


def test_what_is_wrong_inside_an_alias_is_told_at_its_place(faults: Faults) -> None:
    (problem,) = faults(
        "name: a\nmodels: [resnet18]\nworkflows:\n  - {name: fake, from_batch: 1}\n  - &b {name: fake, latency_ms: x}\n"
    )
    assert problem.startswith("sweep.yaml: $.workflows[1].latency_ms (line 5)")
