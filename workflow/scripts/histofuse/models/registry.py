"""From the `class:` of a model entry to the class.

A class is written `module:Name`: a module of this library (`histofuse.models.snn:SNN`) or a user's own file that lies
beside the configuration (`my_model:MyModel`). There is no list of models to keep: an entry in the configuration is
all that a new model needs.

A torch class that can say which tiles a slide's output comes from has a method `tile_scores(batch)`, which takes what
`forward` takes and returns {name: [batch, tile]}; heatmaps are drawn of it. Names that begin with `attention` are
weights that sum to 1 over a bag. The name `output` is special: [batch, tile, outputs], what each tile alone would
contribute, so that its sum weighted by `attention` is the image's part of the slide's output. What it means for the
task (a log hazard, the log odds of a class) is settled where the run is known.

One whose attention reads points of a map of tiles (`order` of the input `tiles`) can have a method
`sampling_points(batch)`, which returns {name: `deformable.Points`}.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from histofuse.io import InputError


class Estimator(ABC):
    """A model that is fitted at once instead of by gradient steps (Cox and logistic regression)."""

    @abstractmethod
    def fit(self, blocks: dict[str, np.ndarray], target) -> Estimator:
        """Fit on {name: float32 [case, feature]} and a `histofuse.training.dataset.Target`; return self."""

    @abstractmethod
    def predict(self, blocks: dict[str, np.ndarray]) -> np.ndarray:
        """Float64 [case] log hazards, or [case, class] log probabilities."""

    @abstractmethod
    def weights(self) -> dict[str, np.ndarray]:
        """What is needed to predict again without the training data."""


def load_class(name: str, file: str | Path | None = None) -> type:
    """Import the class that an entry names; `file` is the source when it is not a module of this library.

    Raises InputError that names the entry's text when the module, what it imports or the class does not exist.
    """
    module_name, _, class_name = name.partition(":")
    if not class_name:
        raise InputError(f"class: {name!r} is not of the form module:Name (e.g. histofuse.models.snn:SNN)")
    try:
        module = importlib.import_module(module_name) if file is None else _from_file(module_name, Path(file))
    except ModuleNotFoundError as error:
        # `a.b:Name` also fails where there is no `a`; any other name is of a package that the module itself imports
        absent = error.name is not None and f"{module_name}.".startswith(f"{error.name}.")
        remedy = f"Put {module_name.replace('.', '/')}.py beside the configuration file, or correct the name"
        if not absent:
            remedy = f"{module_name} imports it: install it where the workflow runs, or do without it"
        raise InputError(f"class: {name!r}: {error}. {remedy}") from error
    if not hasattr(module, class_name):
        raise InputError(f"class: {name!r}: {module.__file__} defines no {class_name}")
    return getattr(module, class_name)


def load_classes(files: Mapping[str, str | Path]) -> type:
    """The class of a model, the last of {class: its source}; those that its parameters name come before it."""
    return [load_class(name, file) for name, file in files.items()][-1]


def _from_file(name: str, file: Path):
    """Import a module from its file, as the workflow found it beside the configuration."""
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
