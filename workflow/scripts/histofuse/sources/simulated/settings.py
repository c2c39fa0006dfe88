"""What can be chosen about simulated data, checked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, Self

from histofuse.io import InputError
from histofuse.sources.simulated.genes import n_named

STUDIES = ("tcga", "cptac", "ivygap")
FILES = ("all", "slides")
ATTENTIONS = ("in_proj", "Wqkv")


class _Checked:
    """`parse` for the settings below: a key is one of the fields, of its type, within its limits.

    `LIMITS` holds the smallest sensible value of each number and the largest where there is one, `CHOICES` the
    values that a text may have.
    """

    LIMITS: ClassVar[Mapping[str, tuple[float, float | None]]]
    CHOICES: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    @classmethod
    def parse(cls, values: Mapping) -> Self:
        """Settings from a config entry; InputError names a key that is unknown, ill-typed or out of range."""
        kinds = {field.name: {"int": int, "str": str}.get(field.type, (int, float)) for field in fields(cls)}
        for key, value in values.items():
            if key not in kinds:
                raise InputError(f"simulated.{key}: unknown; the settings are {', '.join(kinds)}")
            if kinds[key] is str:
                if value not in cls.CHOICES[key]:
                    raise InputError(f"simulated.{key}: {value!r} is not one of {', '.join(cls.CHOICES[key])}")
                continue
            if isinstance(value, bool) or not isinstance(value, kinds[key]):
                raise InputError(f"simulated.{key}: {value!r} is not a number of the right type")
            low, high = cls.LIMITS[key]
            if not (value >= low and (high is None or value <= high)):  # NaN fails as well
                upper = "" if high is None else f" and at most {high}"
                raise InputError(f"simulated.{key}: {value} must be at least {low}{upper}")
        return cls(**values)


@dataclass(frozen=True)
class Settings(_Checked):
    """Size and damage of the cohort.

    cases : number of cases
    seed : everything follows from it; a case depends on the seed and its own number only
    genes : rows of the expression and copy number files
    slide_pixels : the longer side of a slide at full resolution, pixels of 0.499 µm
    slides_per_case : the most slides a case has; the number is uniform from 1. Of a simulated IvyGAP images, and
        none unless asked for
    missing : share of cases that lack one modality (expression, alterations or slides, equally often); half
        that share lacks the molecular labels, and of the living a tenth of it has no time of follow-up. With
        `study` ivygap, the share of tumours without RNA sequencing
    broken_slides : slides damaged on purpose: cut off, without a resolution, without tissue, in turn
    study : whose files are imitated, "tcga", "cptac" (other patients, with CPTAC's ids; else as tcga) or "ivygap"
    files : "all", or "slides" without expression and alterations; not of IvyGAP, whose cases are made of expression
    """

    LIMITS: ClassVar = {
        "cases": (1, 9999),
        "seed": (0, None),
        "genes": (n_named(), None),
        "slide_pixels": (512, 8192),  # a larger image would take gigabytes of memory
        "slides_per_case": (0, 9),
        "missing": (0.0, 0.5),
        "broken_slides": (0, None),
    }
    CHOICES: ClassVar = {"study": STUDIES, "files": FILES}

    cases: int = 120
    seed: int = 0
    genes: int = 1000
    slide_pixels: int = 2048
    slides_per_case: int = 1
    missing: float = 0.05
    broken_slides: int = 3
    study: str = "tcga"
    files: str = "all"

    @classmethod
    def parse(cls, values: Mapping) -> Self:
        ivygap = values.get("study") == "ivygap"
        chosen = super().parse({"slides_per_case": 0} | dict(values) if ivygap else values)
        if not ivygap and chosen.slides_per_case == 0:
            raise InputError("simulated.slides_per_case: 0 must be at least 1 but with study ivygap")
        if ivygap and chosen.files != "all":
            raise InputError("simulated.files: a simulated IvyGAP is made of expression; remove this setting")
        if ivygap and values.get("broken_slides"):
            raise InputError("simulated.broken_slides: images of a simulated IvyGAP are whole; remove this setting")
        return chosen


@dataclass(frozen=True)
class AtlasSettings(_Checked):
    """Size of the simulated single-cell atlas.

    cells_per_type : cells of each of the 17 types, spread evenly over the donors
    donors : each shifts every gene a little
    genes : of the catalogue, from its start; a symbol that occurs twice is kept once
    seed : everything follows from it, but for a gene's base abundance, which is that of the bulk cohorts
    """

    LIMITS: ClassVar = {"cells_per_type": (4, None), "donors": (2, None), "genes": (n_named(), None), "seed": (0, None)}

    cells_per_type: int = 150
    donors: int = 8
    genes: int = 600
    seed: int = 2026


@dataclass(frozen=True)
class CheckpointSettings(_Checked):
    """Size of the simulated scGPT checkpoint.

    layers, width, heads : of the transformer; the width is a multiple of the heads
    seed : of its weights and of the order of its vocabulary
    genes : symbols of the catalogue that the vocabulary holds, from its start
    attention : names of the attention's tensors, "in_proj" or, as made with flash attention, "Wqkv"
    """

    LIMITS: ClassVar = {
        "layers": (1, None),
        "width": (8, None),
        "heads": (1, None),
        "seed": (0, None),
        "genes": (n_named(), None),
    }
    CHOICES: ClassVar = {"attention": ATTENTIONS}

    layers: int = 3
    width: int = 64
    heads: int = 4
    seed: int = 2026
    genes: int = 2000
    attention: str = "in_proj"

    @classmethod
    def parse(cls, values: Mapping) -> Self:
        chosen = super().parse(values)
        if chosen.width % chosen.heads:
            raise InputError(f"simulated.width: {chosen.width} is not a multiple of the {chosen.heads} heads")
        return chosen
