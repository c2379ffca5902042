# SPDX-License-Identifier: Apache-2.0
"""torchvision's models, built and settled in this process."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from farm.contract.job import ModelSpec
from farm.contract.run import RunRequest
from tests.factories import DEVICE, make_job
from workers.workflows.base import Context
from workers.workflows.cache import Cache
from workers.workflows.errors import DamagedModel, Unsupported, WeightsUnavailable
from workers.workflows.torch_models import TorchModel

pytestmark = [pytest.mark.models, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
torch = pytest.importorskip("torch")

Make = Callable[..., TorchModel]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """`make(name, size, **model)`: a model of a preparing context with an empty cache."""

    def of(name: str, size: Any = 64, model_file: Path | None = None, **fields: Any) -> TorchModel:
        shape = (3, size, size) if isinstance(size, int) else size
        job = make_job(model=ModelSpec(**{"name": name, "input_shape": shape} | fields), workflow="pytorch")
        file = str(model_file) if model_file else None
        request = RunRequest("r", "prepare", job, DEVICE, str(tmp_path), None, file)
        cache = Cache(str(tmp_path / "cache"), True, time.perf_counter_ns)
        return TorchModel(Context(request, str(tmp_path), cache, 2, _no_stage, str, _no_progress))

    return of


def _no_stage(name: str) -> Any:
    raise AssertionError("models open no stage")


def _no_progress(fraction: float) -> None:
    raise AssertionError("models tell no progress")


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet18", 64),
        ("mobilenet_v3_small", 64),
        ("squeezenet1_1", 64),
        ("googlenet", 64),
        ("inception_v3", 96),
        ("vit_b_16", 64),
        ("swin_t", 64),
        ("shufflenet_v2_x0_5", 64),
    ],
)
def test_models_of_every_family_give_outputs_worth_comparing(make: Make, name: str, size: int) -> None:
    module = make(name, size).module()
    with torch.inference_mode():
        one, two = module(torch.rand(2, 3, size, size)), module(torch.rand(1, 3, size, size))
    assert (tuple(one.shape), tuple(two.shape)) == ((2, 1000), (1, 1000))
    assert 1e-3 < float(one.std()) < 1e3
    assert not module.training
    assert all(not part.training for part in module.modules())


def test_rounding_does_not_grow_with_the_depth_of_a_random_network(make: Make) -> None:
    module = make("resnet152", 64).module()
    values = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        single, double = module(values), module.double()(values.double())
    far = ~torch.isclose(single.double(), double, rtol=1e-3, atol=1e-8)
    assert float(far.double().mean()) < 0.01, "at branch scale 1 it is 0.4"


def _digest(module: Any) -> str:
    hasher = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        hasher.update(name.encode() + tensor.numpy().tobytes())
    return hasher.hexdigest()


def test_a_seed_gives_the_same_weights_and_another_seed_others(make: Make, tmp_path: Path) -> None:
    first = _digest(make("squeezenet1_1").module())
    _forget(tmp_path)
    assert _digest(make("squeezenet1_1").module()) == first
    assert _digest(make("squeezenet1_1", weights="random:1").module()) != first


def test_settling_is_repeatable_and_leaves_batchnorm_as_it_was(make: Make, tmp_path: Path) -> None:
    module = make("resnet18").module()
    assert {m.momentum for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {0.1}
    first = _digest(module)
    _forget(tmp_path)
    assert _digest(make("resnet18").module()) == first


def test_what_is_loaded_from_the_cache_is_what_was_settled(make: Make) -> None:
    made, loaded = make("resnet18"), make("resnet18")
    assert _digest(made.module()) == _digest(loaded.module())
    assert (made.weights().cached, loaded.weights().cached) == (False, True)


def _forget(tmp_path: Path) -> None:
    (tmp_path / "cache").rename(tmp_path / f"cache-{time.monotonic_ns()}")


@pytest.mark.parametrize(
    ("name", "fields", "reference"),
    [
        ("resnet18", {"input_shape": (1, 64, 64)}, "input-shape-unsupported"),
        ("resnet18", {"input_shape": (64, 64)}, "input-shape-unsupported"),
        ("vit_b_16", {"input_shape": (3, 64, 80)}, "input-shape-unsupported"),
        ("maxvit_t", {"input_shape": (3, 100, 100)}, "input-shape-unsupported"),
        ("resnet19", {}, "unknown-model"),
        ("resnet18", {"weights": "random:x"}, "unknown-weights"),
        ("resnet18", {"weights": "best"}, "unknown-weights"),
        ("mine", {"source": "onnx"}, "source-unsupported"),
    ],
)
def test_what_cannot_be_built_is_unsupported_and_says_why(
    make: Make, name: str, fields: dict[str, Any], reference: str
) -> None:
    with pytest.raises(Unsupported) as caught:
        make(name, **fields).module()
    assert caught.value.reference == reference


def test_a_state_dict_by_digest_is_loaded(make: Make, tmp_path: Path) -> None:
    own = make("squeezenet1_1", weights="random:5").module()
    file = tmp_path / "own.pt"
    torch.save(own.state_dict(), file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    loaded = make("squeezenet1_1", weights="sha256:" + digest, model_file=file).module()
    assert _digest(loaded) == _digest(own)


def test_a_published_state_dict_with_training_heads_loads_too(make: Make, tmp_path: Path) -> None:
    own = make("googlenet").module()
    file = tmp_path / "own.pt"
    torch.save(dict(own.state_dict()) | {"aux1.conv.weight": torch.zeros(1)}, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert _digest(make("googlenet", weights="sha256:" + digest, model_file=file).module()) == _digest(own)


def test_a_state_dict_that_is_not_the_one_asked_for_is_damaged(make: Make, tmp_path: Path) -> None:
    file = tmp_path / "own.pt"
    file.write_bytes(b"anything")
    with pytest.raises(DamagedModel, match="sha256"):
        make("squeezenet1_1", weights="sha256:" + "0" * 64, model_file=file).module()
    digest = hashlib.sha256(b"anything").hexdigest()
    with pytest.raises(DamagedModel, match="does not load"):
        make("squeezenet1_1", weights="sha256:" + digest, model_file=file).module()
    with pytest.raises(WeightsUnavailable, match="not fetched"):
        make("squeezenet1_1", weights="sha256:" + digest).module()


def test_a_pickle_is_not_run(make: Make, tmp_path: Path) -> None:
    """A state dict may come from anybody: nothing in it is executed."""
    file, proof = tmp_path / "evil.pt", tmp_path / "proof"
    torch.save({"weight": _Evil(str(proof))}, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(DamagedModel):
        make("squeezenet1_1", weights="sha256:" + digest, model_file=file).module()
    assert not proof.exists()


class _Evil:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (Path(self.path),))


def test_published_weights_without_a_network_say_what_to_do(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens on the discard port
    with pytest.raises(WeightsUnavailable, match="squeezenet1_1") as caught:
        make("squeezenet1_1", weights="default").module()
    assert "random:0" in (caught.value.hint or "")


def test_the_key_names_all_that_weights_depend_on(make: Make) -> None:
    base = make("resnet18").key()
    others = [make("resnet18", weights="random:1"), make("resnet18", 96), make("resnet34")]
    assert all(other.key() != base for other in others)
    assert set(base["versions"]) == {"torch", "torchvision"}


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "googlenet", "vit_b_16", "swin_t", "convnext_tiny"])
def test_a_module_with_weights_from_the_cache_draws_no_random_numbers(
    make: Make, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(name)
    made = model.module()
    drawn: list[str] = []
    for initialiser in ("kaiming_normal_", "kaiming_uniform_", "normal_", "trunc_normal_", "uniform_"):
        real = getattr(torch.nn.init, initialiser)

        def counted(*args: Any, _real: Any = real, _name: str = initialiser, **keywords: Any) -> Any:
            drawn.append(_name)
            return _real(*args, **keywords)

        monkeypatch.setattr(torch.nn.init, initialiser, counted)
    loaded = TorchModel(model._ctx).module()
    assert drawn == []
    torch.nn.Linear(2, 2)
    assert drawn != [], "initialisers work again"
    assert not loaded.training
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(loaded(x), made(x))
    for (key, one), (other, two) in zip(made.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert key == other
        assert torch.equal(one, two)
