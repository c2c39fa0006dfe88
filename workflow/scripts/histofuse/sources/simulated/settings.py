"""What can be chosen about the simulated cohort, checked once."""

from __future__ import annotations

from dataclasses import dataclass, fields

from histofuse.io import InputError
from histofuse.sources.simulated.genes import n_named

# Smallest sensible value of each setting, and the largest where there is one.
LIMITS = {
    "cases": (1, 9999),
    "seed": (0, None),
    "genes": (n_named(), None),
    "slide_pixels": (512, 8192),  # a larger image would take gigabytes of memory
    "slides_per_case": (1, 9),
    "missing": (0.0, 0.5),
    "broken_slides": (0, None),
}


@dataclass(frozen=True)
class Settings:
    """Size and damage of the cohort.

    cases : number of cases
    seed : everything follows from it; a case depends on the seed and its own number only
    genes : rows of the expression and copy number files
    slide_pixels : the longer side of a slide at full resolution, pixels of 0.499 µm
    slides_per_case : the most slides a case has; the number is uniform from 1
    missing : share of cases that lack one modality (expression, alterations or slides, equally often); half
        that share lacks the molecular labels, and of the living a tenth of it has no time of follow-up
    broken_slides : slides damaged on purpose: cut off, without a resolution, without tissue, in turn
    """

    cases: int = 120
    seed: int = 0
    genes: int = 1000
    slide_pixels: int = 2048
    slides_per_case: int = 1
    missing: float = 0.05
    broken_slides: int = 3

    @classmethod
    def parse(cls, values: dict) -> Settings:
        """Settings from a config entry; InputError names a key that is unknown, ill-typed or out of range."""
        kinds = {field.name: (int if field.type == "int" else (int, float)) for field in fields(cls)}
        for key, value in values.items():
            if key not in kinds:
                raise InputError(f"simulated.{key}: unknown; the settings are {', '.join(kinds)}")
            if isinstance(value, bool) or not isinstance(value, kinds[key]):
                raise InputError(f"simulated.{key}: {value!r} is not a number of the right type")
            low, high = LIMITS[key]
            if not (value >= low and (high is None or value <= high)):  # NaN fails as well
                upper = "" if high is None else f" and at most {high}"
                raise InputError(f"simulated.{key}: {value} must be at least {low}{upper}")
        return cls(**values)
