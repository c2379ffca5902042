# SPDX-License-Identifier: Apache-2.0
"""The digits that come with the farm, and folders of real image files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from farm.contract.job import AccuracySpec, Calibration, JobSpec, ModelSpec
from tests.factories import make_job
from workers.workflows import datasets, digits, image_folder, inputs
from workers.workflows.errors import DataUnavailable, Unsupported
from workers.workflows.torch_setup import import_torchvision

np = pytest.importorskip("numpy")
Image = pytest.importorskip("PIL.Image")
DIGITS = make_job(model=ModelSpec("resnet18", input_shape=(3, 32, 32), weights="digits:0"), data="digits", seed=3)


def test_the_digits_are_split_once_into_1437_and_360_with_every_class_in_proportion() -> None:
    train, test = digits.split()
    assert (len(train), len(test)) == (1437, 360)
    assert not set(train) & set(test)
    labels = digits.read()[1]
    shares = np.bincount(labels[test]) / np.bincount(labels)
    assert abs(shares - 360 / 1797).max() < 1 / 170
    # Written down: another split would be another test set, and accuracies before and after could not be compared.
    assert hashlib.sha256(test.astype("<i8").tobytes()).hexdigest()[:16] == "91c287700750b4d3"


def test_images_have_the_models_size_in_three_equal_channels() -> None:
    images, labels = datasets.labelled_training(DIGITS)
    assert (images.shape, images.dtype) == ((1437, 3, 32, 32), np.float32)
    assert (labels.shape, labels.dtype) == ((1437,), np.int64)
    assert (images[:, 0] == images[:, 2]).all()
    assert (float(images.min()), float(images.max())) == (0.0, 1.0)
    assert datasets.classes(DIGITS) == 10


@pytest.mark.parametrize("size", [(8, 8), (32, 32), (29, 50), (5, 7)])
def test_they_are_brought_to_size_as_torch_does_it(size: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    planes = digits.read()[0][:6].astype(np.float32) / 16
    wanted = torch.nn.functional.interpolate(
        torch.from_numpy(planes)[:, None], size=size, mode="bilinear", align_corners=False
    )
    assert abs(digits.resize(planes, *size) - wanted[:, 0].numpy()).max() < 1e-6


def test_the_test_part_comes_in_batches_and_a_limit_is_spread_over_it() -> None:
    sizes = [(len(images), len(labels)) for images, labels in datasets.labelled_test(DIGITS, 100)]
    assert sizes == [(100, 100), (100, 100), (100, 100), (60, 60)]
    few = replace(DIGITS, accuracy=AccuracySpec("digits", limit=30))
    ((images, labels),) = datasets.labelled_test(few, 64)
    whole = np.concatenate([found for _, found in datasets.labelled_test(DIGITS)])
    assert len(images) == 30
    assert (labels == whole[6::12]).all()


def test_calibration_takes_training_images_in_a_seeded_order_that_no_batch_changes() -> None:
    by_three = np.concatenate(list(inputs.calibration_batches(DIGITS, Calibration(samples=8, batch=3))))
    (at_once,) = inputs.calibration_batches(DIGITS, Calibration(samples=8, batch=8))
    (more,) = inputs.calibration_batches(DIGITS, Calibration(samples=20, batch=20))
    (other,) = inputs.calibration_batches(replace(DIGITS, seed=4), Calibration(samples=8, batch=8))
    assert (by_three == at_once).all()
    assert (more[:8] == at_once).all()
    assert (other != at_once).any()
    training = {image.tobytes() for image in datasets.labelled_training(DIGITS)[0]}
    assert all(image.tobytes() in training for image in more)


def test_more_calibration_samples_than_images_are_refused_with_the_number_there_is() -> None:
    with pytest.raises(DataUnavailable, match="1437 training images") as caught:
        list(inputs.calibration_batches(DIGITS, Calibration(samples=1438, batch=8)))
    assert caught.value.reference == "too-few-images"
    with pytest.raises(DataUnavailable):  # full batches of 1000 need 2000
        list(inputs.calibration_batches(DIGITS, Calibration(samples=1437, batch=8), fixed=1000))


def test_measuring_inputs_are_test_images_and_differ() -> None:
    one, many = inputs.measuring_inputs(DIGITS, 4, 1), inputs.measuring_inputs(DIGITS, 4, 3)
    assert (one[0] == many[0]).all()
    assert len({x.tobytes() for x in many}) == 3
    test = {image.tobytes() for images, _ in datasets.labelled_test(DIGITS) for image in images}
    assert all(image.tobytes() in test for x in many for image in x)
    (large,) = inputs.measuring_inputs(DIGITS, 400, 1)
    assert len(large) == 400


def test_uniform_data_have_no_classes() -> None:
    job = replace(DIGITS, data="uniform")
    with pytest.raises(Unsupported) as caught:
        datasets.labelled_training(job)
    assert caught.value.reference == "data-without-classes"
    assert datasets.classes(replace(job, model=ModelSpec("resnet18"))) == 1000


# Image folders

Folder = Callable[..., JobSpec]
NAMES = ("ape", "bee", "cat")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Write real PNG and JPEG files of several sizes and modes, and make the job that reads them."""

    def make(parts: tuple[str, ...] = ("train", "val"), each: int = 4, **fields: Any) -> JobSpec:
        root, rng = tmp_path / "images", np.random.default_rng(0)
        for part in parts:
            for number, name in enumerate(NAMES):
                where = root / part / name
                where.mkdir(parents=True)
                for i in range(each):
                    pixels = rng.integers(0, 256, (40 + 9 * i, 60 - 5 * number, 3), dtype=np.uint8)
                    image = Image.fromarray(pixels).convert("L" if i == 1 else "RGB")
                    image.save(where / f"{i}.{'jpg' if i % 2 else 'PNG'}")
        model = ModelSpec("resnet18", input_shape=(3, 32, 32), weights="default")
        given = {"model": model, "data": "imagenet", "data_path": str(root)} | fields
        return make_job(**given)

    return make


def test_images_and_classes_are_torchvisions(folder: Folder) -> None:
    pytest.importorskip("torch")
    torchvision = import_torchvision()
    job = folder()
    transforms = torchvision.transforms
    usual = transforms.Compose(
        [
            transforms.Resize(32 * 256 // 224),
            transforms.CenterCrop(32),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    wanted = torchvision.datasets.ImageFolder(str(Path(str(job.data_path)) / "val"), usual)
    ((images, labels),) = datasets.labelled_test(job)
    assert labels.tolist() == wanted.targets
    assert images.dtype == np.float32
    assert abs(images - np.stack([image.numpy() for image, _ in wanted])).max() < 1e-6


def test_224_pixels_are_cut_from_256(folder: Folder) -> None:
    pytest.importorskip("torch")
    torchvision = import_torchvision()
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (300, 401, 3), dtype=np.uint8))
    usual = torchvision.transforms.Compose(
        [torchvision.transforms.Resize(256), torchvision.transforms.CenterCrop(224), torchvision.transforms.ToTensor()]
    )
    mean = np.array((0.485, 0.456, 0.406), dtype=np.float32)[:, None, None]
    std = np.array((0.229, 0.224, 0.225), dtype=np.float32)[:, None, None]
    found = image_folder.to_input(image, (3, 224, 224)) * std + mean
    assert abs(found - usual(image).numpy()).max() < 1e-6


def test_calibration_needs_a_train_part_and_takes_no_test_image(folder: Folder, tmp_path: Path) -> None:
    job = folder()
    (found,) = inputs.calibration_batches(job, Calibration(samples=12, batch=12))
    test = {image.tobytes() for images, _ in datasets.labelled_test(job) for image in images}
    assert not test & {image.tobytes() for image in found}
    bare = replace(job, data_path=str(Path(str(job.data_path)) / "val"))
    assert [len(labels) for _, labels in datasets.labelled_test(bare)] == [12]
    with pytest.raises(DataUnavailable, match="no folder 'train'"):
        list(inputs.calibration_batches(bare, Calibration(samples=1, batch=1)))


def test_a_limit_takes_some_of_every_class(folder: Folder) -> None:
    job = replace(folder(each=8), accuracy=AccuracySpec("imagenet", "unused", 6))
    ((_, labels),) = datasets.labelled_test(job)
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_a_file_that_is_no_image_is_named(folder: Folder) -> None:
    job = folder()
    bad = Path(str(job.data_path)) / "val/bee/0.PNG"
    bad.write_bytes(b"no image")
    with pytest.raises(DataUnavailable) as caught:
        list(datasets.labelled_test(job))
    assert str(bad) in caught.value.message
    assert caught.value.reference == "image-unreadable"
    good = Path(str(job.data_path)) / "val/bee/2.PNG"
    bad.write_bytes(good.read_bytes()[:-40])
    with pytest.raises(DataUnavailable, match="cannot be read"):
        list(datasets.labelled_test(job))


def test_what_is_wrong_with_a_folder_is_said(folder: Folder, tmp_path: Path) -> None:
    job = folder()
    root = Path(str(job.data_path))
    with pytest.raises(DataUnavailable, match="is not there"):
        list(datasets.labelled_test(replace(job, data_path=str(tmp_path / "elsewhere"))))
    (root / "val/dog").mkdir()
    image_folder._listing.cache_clear()
    with pytest.raises(DataUnavailable, match="dog holds no image"):
        list(datasets.labelled_test(job))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataUnavailable, match="no class folders"):
        list(datasets.labelled_test(replace(job, data_path=str(tmp_path / "empty"))))
    with pytest.raises(DataUnavailable, match="3 class folders, more than the model's 2"):
        image_folder.ImageFolder(str(root), "train", (3, 32, 32), 2)


def test_other_files_are_other_data(folder: Folder) -> None:
    job = folder()
    before = datasets.identity(job, "test")
    assert before != datasets.identity(job, "train")
    assert before != datasets.identity(replace(job, seed=1), "test")
    image_folder._listing.cache_clear()
    image_folder._listing_digest.cache_clear()
    assert datasets.identity(job, "test") == before
    (Path(str(job.data_path)) / "val/ape/new.png").write_bytes(b"x")
    image_folder._listing.cache_clear()
    image_folder._listing_digest.cache_clear()
    assert datasets.identity(job, "test") != before
