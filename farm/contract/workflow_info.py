# SPDX-License-Identifier: Apache-2.0
"""What a row of the catalogue says of a workflow."""

from dataclasses import dataclass, field
from typing import Any, Dict, NamedTuple, Optional, Tuple

from farm.contract.job import SCENARIOS


@dataclass(frozen=True)
class OptionValues:
    """What an option may be: `kind` is `bool`, `int`, `float` or `text`; `choices`, where given, are all there are.

    `default` is what leaving the option out means, so that spelling it out changes no id.
    """

    kind: str
    default: Any = None
    choices: Tuple[str, ...] = ()
    minimum: Optional[float] = None


@dataclass(frozen=True)
class FeatureNeed:
    """A feature of a stack, true or false, that some jobs of a workflow need.

    Which: those of `precisions`, of models of `sources` and with all of `options` set so (an option that is not there
    has its default); an empty one means any. `lacking` says what a stack without it has not, `hint` the way out; why a
    stack has it not, the probe may tell in the feature of that name with `_problem` at its end.
    """

    feature: str
    lacking: str
    hint: str
    precisions: Tuple[str, ...] = ()
    sources: Tuple[str, ...] = ()
    options: Dict[str, Any] = field(default_factory=dict)


class Preload(NamedTuple):
    """Modules, in the order of their imports, that every process of a workflow imports in any case.

    A warm parent imports them ahead, so none may start a thread, open a device or run anything when it is imported.
    """

    prepare: Tuple[str, ...] = ()
    measure: Tuple[str, ...] = ()


@dataclass(frozen=True)
class WorkflowInfo:
    """One way to run a model.

    `requires` are importable modules that the stack must have; of each group in `requires_any` it must have one, and
    `requires_by_kind` adds to `requires` on a kind of device. `calibration_methods` are those of int8. `options` maps
    each option to what it does and `values` to what it may be (an option without a row takes any number, text or truth
    value).
    `sources` are the model sources that it can run. `precisions_by_kind` narrows `precisions` on a kind of device.
    `needs_features` maps a probed feature, a list, to what must be in it; why something is not, the probe tells in the
    feature of that name with `_problems` at its end. `needs_of_jobs` are features that only some jobs need.
    `rebuilds`: it builds an engine, so that a sweep's `rebuilds` gives it a job for each build.
    `scenarios` are those of a protocol that it can run. `gpu_options` mean something on a GPU alone; `single_options`
    go with one request in flight alone. `concurrency` are, by kind of device, the switches of a protocol that it has
    among `contexts`, `sessions` and `inter_threads` (`farm.contract.concurrency`). `preload` is what its processes may
    find imported, by kind of device; where it has no row they are started afresh.
    """

    name: str
    summary: str
    precisions: Tuple[str, ...]
    device_kinds: Tuple[str, ...]
    requires: Tuple[str, ...]
    options: Dict[str, str]
    values: Dict[str, OptionValues] = field(default_factory=dict)
    sources: Tuple[str, ...] = ("torchvision", "encoder", "onnx", "fake")
    precisions_by_kind: Dict[str, Tuple[str, ...]] = field(default_factory=dict)
    requires_any: Tuple[Tuple[str, ...], ...] = ()
    requires_by_kind: Dict[str, Tuple[str, ...]] = field(default_factory=dict)
    calibration_methods: Tuple[str, ...] = ("minmax", "entropy", "percentile")
    needs_features: Dict[str, str] = field(default_factory=dict)
    needs_of_jobs: Tuple[FeatureNeed, ...] = ()
    rebuilds: bool = False
    scenarios: Tuple[str, ...] = SCENARIOS
    gpu_options: Tuple[str, ...] = ()
    single_options: Tuple[str, ...] = ()
    concurrency: Dict[str, Tuple[str, ...]] = field(default_factory=dict)
    preload: Dict[str, Preload] = field(default_factory=dict)

    def preloads(self, kind: str, mode: str) -> Optional[Tuple[str, ...]]:
        """What to import ahead of a process of `mode` on a kind of device; None: it has to be started afresh."""
        found = self.preload.get(kind)
        if found is None:
            return None
        return found.prepare if mode == "prepare" else found.measure

    def precisions_on(self, kind: str) -> Tuple[str, ...]:
        """The precisions that it runs on a kind of device."""
        return self.precisions_by_kind.get(kind, self.precisions)

    def needs(self, precision: str, options: Dict[str, Any], source: Optional[str]) -> Tuple[FeatureNeed, ...]:
        """The features that a job needs; `source` None: a model that nobody has named yet."""

        def held(name: str) -> Any:
            values = self.values.get(name)
            return options.get(name, values.default if values else None)

        return tuple(
            need
            for need in self.needs_of_jobs
            if (not need.precisions or precision in need.precisions)
            and (not need.sources or source in need.sources or source is None)
            and all(held(name) == value for name, value in need.options.items())
        )

    def requires_on(self, kind: str) -> Tuple[str, ...]:
        """The modules without which it does not run on a kind of device."""
        return self.requires + self.requires_by_kind.get(kind, ())
