"""What only a simulation knows: the latent factors, and how well anything could rank the cases."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import norm

from histofuse.sources.simulated.cohort import (
    CODEL_NOISE,
    CODEL_THRESHOLD,
    HAZARD,
    IDH_NOISE,
    IDH_THRESHOLD,
    SEEN,
    Case,
)


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
    """Harrell's C of the best possible risks on these cases (default: all); NaN where no two can be compared.

    Keys: `latent` (the true log hazard, which no model can be expected to beat), `tumour`, `microenvironment`
    (one factor alone), `genomics`, `slides`, `both` (the expected log hazard given what these modalities
    were made to show, before any further error of measurement).
    """
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
    time, event = truth["time_days"].to_numpy(), truth["event"].to_numpy() == 1
    return {name: _harrell_c(np.asarray(risk), time, event) for name, risk in risks.items()}


def _harrell_c(risk: np.ndarray, time: np.ndarray, event: np.ndarray) -> float:
    """Share of comparable pairs in which who died first had the higher risk (half for equal); NaN without pairs.

    Here and not from the evaluation stage, because stages do not import each other.
    """
    concordant = comparable = 0.0
    for i in np.flatnonzero(event):
        outlived = (time > time[i]) | ((time == time[i]) & ~event)
        comparable += outlived.sum()
        concordant += (risk[outlived] < risk[i]).sum() + 0.5 * (risk[outlived] == risk[i]).sum()
    return float(concordant / comparable) if comparable else float("nan")


def expected_log_hazard(truth: pd.DataFrame, modalities: Sequence[str]) -> np.ndarray:
    """E[log hazard | what the modalities show], [cases].

    Shown are the noisy views of the factors, and of the labels IDH and 1p/19q (genomics) or 1p/19q alone (slides,
    by the halos of oligodendroglioma). Computed on a grid of factor values, which is exact to four decimals.
    """
    grid = np.linspace(-6, 6, 601)
    total = np.zeros(len(truth))
    for factor, weight in HAZARD.items():
        log_posterior = np.tile(norm.logpdf(grid), (len(truth), 1))
        for modality in modalities:
            view = truth[f"{modality}_{factor}"].to_numpy()[:, None]
            r = SEEN[modality][factor]
            log_posterior += norm.logpdf(view, r * grid, (1 - r**2) ** 0.5)
        if factor == "tumour":
            log_posterior += _log_likelihood_of_labels(truth, grid, with_idh="genomics" in modalities)
        posterior = np.exp(log_posterior - log_posterior.max(axis=1, keepdims=True))
        total += weight * (posterior @ grid) / posterior.sum(axis=1)
    return total


def _log_likelihood_of_labels(truth: pd.DataFrame, tumour: np.ndarray, *, with_idh: bool) -> np.ndarray:
    """log P(labels | tumour), [cases, grid]; without IDH, of whether 1p/19q is lost."""
    log_mutant = norm.logcdf((IDH_THRESHOLD - tumour) / IDH_NOISE)
    log_codel = log_mutant + norm.logcdf((CODEL_THRESHOLD - tumour) / CODEL_NOISE)
    log_wildtype = norm.logsf((IDH_THRESHOLD - tumour) / IDH_NOISE)
    log_mutant_intact = log_mutant + norm.logsf((CODEL_THRESHOLD - tumour) / CODEL_NOISE)
    log_other = np.where((truth["idh"] == "wildtype").to_numpy()[:, None], log_wildtype, log_mutant_intact)
    if not with_idh:
        log_other = np.logaddexp(log_wildtype, log_mutant_intact)
    return np.where(truth["codel_1p19q"].to_numpy()[:, None], log_codel, log_other)
