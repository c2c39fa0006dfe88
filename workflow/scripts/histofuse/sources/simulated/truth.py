"""What only a simulation knows: the latent factors, and how well anything could rank the cases."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from histofuse.sources.simulated.cohort import HAZARD, VIEW_NOISE, Case


def truth_table(cases: Sequence[Case]) -> pd.DataFrame:
    """One row per case: latent factors, log hazard, the modalities' views of the factors, labels, outcome."""
    return pd.DataFrame(
        [
            {
                "case_id": case.case_id,
                "tumour": case.tumour,
                "microenvironment": case.microenvironment,
                "log_hazard": case.log_hazard,
                **{
                    f"{modality}_{factor}": value
                    for modality, factors in case.seen.items()
                    for factor, value in factors.items()
                },
                "idh": case.idh,
                "codel_1p19q": case.codel,
                "grade": case.grade,
                "diagnosis": case.diagnosis,
                "time_days": case.time_days,
                "event": int(case.event),
            }
            for case in cases
        ]
    )


def best_reachable(truth: pd.DataFrame, cases: Sequence[str] | None = None) -> dict[str, float]:
    """Harrell's C of the best possible risks on these cases (default: all).

    Keys: `latent` (the true log hazard, which no model can be expected to beat), `tumour`, `microenvironment`
    (one factor alone), `genomics`, `slides`, `both` (the expected log hazard given the factors as these
    modalities were made to show them, before any further error of measurement).
    """
    from lifelines.utils import concordance_index

    if cases is not None:
        truth = truth.set_index("case_id").loc[list(cases)].reset_index()
    risks = {
        "latent": truth["log_hazard"],
        "tumour": truth["tumour"],
        "microenvironment": truth["microenvironment"],
        "genomics": expected_log_hazard(truth, ["genomics"]),
        "slides": expected_log_hazard(truth, ["slides"]),
        "both": expected_log_hazard(truth, ["genomics", "slides"]),
    }
    return {name: float(concordance_index(truth["time_days"], -risk, truth["event"])) for name, risk in risks.items()}


def expected_log_hazard(truth: pd.DataFrame, modalities: Sequence[str]) -> np.ndarray:
    """E[log hazard | views], [cases]: precision-weighted means, exact because all is Gaussian."""
    total = np.zeros(len(truth))
    for factor, weight in HAZARD.items():
        precision = {modality: VIEW_NOISE[modality][factor] ** -2 for modality in modalities}
        evidence = sum(precision[m] * truth[f"{m}_{factor}"].to_numpy() for m in modalities)
        total += weight * evidence / (1.0 + sum(precision.values()))
    return total
