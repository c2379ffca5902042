# SPDX-License-Identifier: Apache-2.0
"""Which releases work together."""

from __future__ import annotations

import pytest

import farm
from farm.versions import release, too_far_apart


@pytest.mark.parametrize(
    ("controller", "worker"), [("0.1.0", "0.1.9"), ("0.1.0", "0.2.0"), ("0.2.0", "0.1.0"), ("1.4.0", "1.5.0rc1.dev2")]
)
def test_one_minor_release_apart_is_fine(controller: str, worker: str) -> None:
    assert too_far_apart(controller, worker) is None


@pytest.mark.parametrize(
    ("controller", "worker", "advice"),
    [
        ("0.3.0", "0.1.4", "Upgrade the worker to 0.3"),
        ("0.1.4", "0.3.0", "Upgrade the controller to 0.3"),
        ("1.0.0", "0.9.0", "Upgrade the worker to 1.0"),
        ("0.9.0", "1.0.0", "Upgrade the controller to 1.0"),
        ("0.10.0", "0.8.0", "Upgrade the worker to 0.10"),
        ("0.1.0", "", "the worker says"),
        ("nightly", "0.1.0", "the controller says"),
    ],
)
def test_more_is_refused_and_says_what_to_upgrade(controller: str, worker: str, advice: str) -> None:
    told = too_far_apart(controller, worker)
    assert told is not None and advice in told


def test_this_release_has_a_version_that_is_one() -> None:
    assert release(farm.__version__) is not None
    assert too_far_apart(farm.__version__, farm.__version__) is None


@pytest.mark.parametrize("odd", ["1", "1.", ".1", "1.x", "-1.0", "1.2\n", "1.2 rm", "9" * 10 + ".1", "1.2" + "0" * 200])
def test_what_is_no_version_is_none(odd: str) -> None:
    assert release(odd) is None
