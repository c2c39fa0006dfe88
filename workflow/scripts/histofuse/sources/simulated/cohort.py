"""Cases: latent factors, what each modality sees of them, labels, survival. All effect sizes stand here."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from histofuse.sources.simulated.settings import Settings

# log hazard = sum of weight · factor over both factors, which are independent N(0, 1).
HAZARD = {"tumour": 1.45, "microenvironment": 1.4}
# A modality sees r · factor + sqrt(1 - r²) · N(0, 1): its own factor nearly clean, the other's through much noise.
SEEN = {
    "genomics": {"tumour": 0.95, "microenvironment": 0.4},
    "slides": {"tumour": 0.4, "microenvironment": 0.95},
}
# Survival is Weibull with this shape and this median at log hazard 0; censoring is uniform and independent.
WEIBULL_SHAPE = 1.5
MEDIAN_DAYS = 1000.0
CENSORING_DAYS = (100.0, 2600.0)
# IDH is wild-type where tumour + N(0, IDH_NOISE) is above IDH_THRESHOLD; among mutants 1p/19q is lost where
# tumour + N(0, CODEL_NOISE) is below CODEL_THRESHOLD.
IDH_NOISE, IDH_THRESHOLD = 0.4, 0.35
CODEL_NOISE, CODEL_THRESHOLD = 0.7, -0.75
# The grade follows 0.75 · tumour + 0.45 · microenvironment + N(0, GRADE_NOISE) cut at these two points.
GRADE_WEIGHTS = {"tumour": 0.75, "microenvironment": 0.45}
GRADE_NOISE, GRADE_CUTS = 0.4, (-0.55, 0.15)
# Mean age in years, its change by one unit of the tumour factor, and the spread that is left.
AGE = {"mean": 48.0, "tumour": 7.0, "sd": 10.0, "range": (18.0, 88.0)}

# CPTAC's patients are numbered after those of the other studies, so that one seed never gives both the same ones.
FIRST_OF_CPTAC = 100_000

STREAMS = (
    *("latent", "labels", "survival", "clinical", "missing", "expression", "alterations", "slides"),
    *("blocks", "samples"),  # of the tumours of the other study
)


@dataclass(frozen=True)
class Case:
    """One simulated patient.

    `seen` holds, per modality, the noisy view of each factor that the files of that modality are made from.
    `slides` are slide ids (file names without .svs). `has` says which modalities exist. Times are days. `tumour_sample`
    and `normal_sample` are the barcodes of the sequenced samples.
    """

    number: int
    case_id: str
    tumour: float
    microenvironment: float
    log_hazard: float
    seen: dict[str, dict[str, float]]
    sex: str
    age_days: int
    idh: str
    codel: bool
    grade: int
    diagnosis: str
    time_days: int
    event: bool
    has: dict[str, bool]
    has_labels: bool
    has_follow_up: bool
    slides: tuple[str, ...]
    tumour_sample: str
    normal_sample: str


def generator(settings: Settings, number: int, stream: str) -> np.random.Generator:
    """The random numbers of one case for one purpose; they do not depend on any other case or purpose."""
    return np.random.default_rng([settings.seed, number, STREAMS.index(stream)])


def stable_uuid(settings: Settings, *names: object) -> str:
    """A version-4 shaped UUID that follows from the seed and a name."""
    text = "/".join(str(name) for name in ("simulated", settings.seed, *names))
    return str(uuid.UUID(bytes=hashlib.sha256(text.encode()).digest()[:16], version=4))


def draw_cases(settings: Settings) -> list[Case]:
    first = FIRST_OF_CPTAC if settings.study == "cptac" else 0
    return [draw_case(settings, first + number) for number in range(settings.cases)]


def draw_case(settings: Settings, number: int) -> Case:
    """Draw case `number` (from 0; CPTAC's from FIRST_OF_CPTAC). Its id has the shape of a TCGA barcode, with a project
    of its own, or of CPTAC's ids."""
    latent = generator(settings, number, "latent")
    tumour, microenvironment = (float(value) for value in latent.standard_normal(2))
    factors = {"tumour": tumour, "microenvironment": microenvironment}
    seen = {
        modality: {
            factor: r * factors[factor] + (1 - r**2) ** 0.5 * float(latent.standard_normal())
            for factor, r in correlations.items()
        }
        for modality, correlations in SEEN.items()
    }
    log_hazard = sum(HAZARD[factor] * value for factor, value in factors.items())
    idh, codel, grade = _labels(tumour, microenvironment, generator(settings, number, "labels"))
    time_days, event = _survival(log_hazard, generator(settings, number, "survival"))

    clinical = generator(settings, number, "clinical")
    age = AGE["mean"] + AGE["tumour"] * tumour + AGE["sd"] * clinical.standard_normal()
    sex = "male" if clinical.random() < 0.57 else "female"

    case_id, slide_id, samples = _names(settings, number)
    absent = generator(settings, number, "missing")
    has = {"expression": True, "alterations": True, "slides": True}
    genomics = settings.files == "all"
    lacks_one, which = absent.random() < settings.missing, absent.choice(list(has))
    has[str(which)] = not lacks_one
    has |= {} if genomics else {"expression": False, "alterations": False}
    has_labels = bool(absent.random() >= settings.missing / 2)
    has_follow_up = bool(event or absent.random() >= settings.missing / 10)
    some = has["slides"] and settings.slides_per_case > 0
    n_slides = int(absent.integers(1, settings.slides_per_case + 1)) if some else 0
    return Case(
        number=number,
        case_id=case_id,
        tumour=tumour,
        microenvironment=microenvironment,
        log_hazard=log_hazard,
        seen=seen,
        sex=sex,
        age_days=int(np.clip(age, *AGE["range"]) * 365.25),
        idh=idh,
        codel=codel,
        grade=grade,
        diagnosis=diagnosis_of(idh, codel, grade),
        time_days=time_days,
        event=event,
        has=has,
        has_labels=has_labels,
        has_follow_up=has_follow_up,
        slides=tuple(slide_id(k) for k in range(1, n_slides + 1)),
        tumour_sample=samples[0],
        normal_sample=samples[1],
    )


def _names(settings: Settings, number: int) -> tuple[str, Callable[[int], str], tuple[str, str]]:
    """A case's id, the id of its k-th slide, and the barcodes of its tumour and its normal sample."""
    if settings.study == "cptac":
        case_id = f"C3{'LN'[number % 2]}-{number - FIRST_OF_CPTAC + 1:05d}"
        samples = tuple(f"CPT{10 * number + part:010d}" for part in (1, 2))
        return case_id, lambda k: f"{case_id}-{20 + k}", samples
    case_id = f"SIMU-GB-{number + 1:04d}"

    def slide_id(k: int) -> str:
        return f"{case_id}-01Z-00-DX{k}.{stable_uuid(settings, case_id, 'slide', k).upper()}"

    return case_id, slide_id, (f"{case_id}-01A-11D-A000-08", f"{case_id}-10A-01D-A000-08")


def _labels(tumour: float, microenvironment: float, rng: np.random.Generator) -> tuple[str, bool, int]:
    """IDH status, 1p/19q co-deletion and histological grade."""
    noise = rng.standard_normal(3)
    idh = "wildtype" if tumour + IDH_NOISE * noise[0] > IDH_THRESHOLD else "mutant"
    codel = idh == "mutant" and tumour + CODEL_NOISE * noise[1] < CODEL_THRESHOLD
    score = GRADE_WEIGHTS["tumour"] * tumour + GRADE_WEIGHTS["microenvironment"] * microenvironment
    grade = 2 + int(np.searchsorted(GRADE_CUTS, score + GRADE_NOISE * noise[2]))
    if idh == "wildtype":
        grade = max(grade, 3)  # the rare wild-type grade 3 is a glioblastoma all the same (WHO 2021)
    elif codel:
        grade = min(grade, 3)  # there is no grade 4 oligodendroglioma
    return idh, bool(codel), grade


def diagnosis_of(idh: str, codel: bool, grade: int) -> str:
    """WHO 2021 integrated diagnosis. CDKN2A is not needed: it is lost in astrocytomas of grade 4 only."""
    if idh == "wildtype":
        return "glioblastoma"
    if codel:
        return "oligodendroglioma"
    return "astrocytoma_grade4" if grade == 4 else "astrocytoma_grade23"


def _survival(log_hazard: float, rng: np.random.Generator) -> tuple[int, bool]:
    """Days, and whether the patient died: the earlier of a Weibull death and a uniform censoring."""
    scale = MEDIAN_DAYS / np.log(2) ** (1 / WEIBULL_SHAPE)
    death = scale * (rng.standard_exponential() / np.exp(log_hazard)) ** (1 / WEIBULL_SHAPE)
    censoring = rng.uniform(*CENSORING_DAYS)
    return max(1, round(min(death, censoring))), bool(death <= censoring)
