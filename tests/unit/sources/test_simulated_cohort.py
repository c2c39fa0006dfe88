"""Cases of the simulated cohort: settings, latent factors, labels, survival, and the best reachable C-index."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from histofuse.io import InputError
from histofuse.sources.simulated import Settings, best_reachable
from histofuse.sources.simulated.cohort import HAZARD, diagnosis_of, draw_case, draw_cases
from histofuse.sources.simulated.truth import expected_log_hazard, truth_table


@pytest.fixture(scope="module")
def truth() -> pd.DataFrame:
    return truth_table(draw_cases(Settings(cases=3000, seed=5)))


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"caes": 3}, "caes"),
        ({"cases": 0}, "cases"),
        ({"cases": 2.5}, "cases"),
        ({"cases": True}, "cases"),
        ({"seed": "1"}, "seed"),
        ({"genes": 10}, "genes"),
        ({"slide_pixels": 100}, "slide_pixels"),
        ({"slide_pixels": 9000}, "slide_pixels"),
        ({"missing": 0.9}, "missing"),
        ({"missing": float("nan")}, "missing"),
        ({"broken_slides": -1}, "broken_slides"),
    ],
)
def test_bad_settings_name_their_key(values, key):
    with pytest.raises(InputError, match=rf"simulated\.{key}"):
        Settings.parse(values)


def test_a_case_does_not_depend_on_the_size_of_the_cohort():
    few, many = draw_cases(Settings(cases=3, seed=1)), draw_cases(Settings(cases=9, seed=1))
    assert few == many[:3]
    assert draw_case(Settings(seed=2), 0).tumour != few[0].tumour


def test_ids_have_the_shape_of_tcga_barcodes():
    case = draw_case(Settings(seed=1, missing=0), 41)
    assert case.case_id == "SIMU-GB-0042"
    assert case.slides[0][:23] == "SIMU-GB-0042-01Z-00-DX1"


def test_a_cptac_cohort_has_other_patients_and_cptac_ids():
    cases = draw_cases(Settings(cases=6, seed=1, missing=0, slides_per_case=3, study="cptac"))
    assert [case.case_id for case in cases[:3]] == ["C3L-00001", "C3N-00002", "C3L-00003"]
    for case in cases:
        assert list(case.slides) == [f"{case.case_id}-{21 + k}" for k in range(len(case.slides))]
        assert re.fullmatch(r"CPT\d{10}", case.tumour_sample)
        assert case.tumour_sample != case.normal_sample
    samples = {sample for case in cases for sample in (case.tumour_sample, case.normal_sample)}
    assert len(samples) == 12
    others = draw_cases(Settings(cases=6, seed=1, missing=0))
    assert not {case.tumour for case in cases} & {case.tumour for case in others}


def test_a_cohort_of_slides_alone_has_no_genomics():
    cases = draw_cases(Settings(cases=40, seed=1, missing=0.4, study="cptac", files="slides"))
    assert not any(case.has["expression"] or case.has["alterations"] for case in cases)
    assert 0 < sum(case.has["slides"] for case in cases) < 40
    with pytest.raises(InputError, match=r"simulated\.files: a simulated IvyGAP is made of expression"):
        Settings.parse({"study": "ivygap", "files": "slides"})


@pytest.mark.parametrize(
    ("idh", "codel", "grade", "diagnosis"),
    [
        ("wildtype", False, 3, "glioblastoma"),
        ("wildtype", False, 4, "glioblastoma"),
        ("mutant", True, 3, "oligodendroglioma"),
        ("mutant", False, 4, "astrocytoma_grade4"),
        ("mutant", False, 2, "astrocytoma_grade23"),
    ],
)
def test_diagnosis_follows_who_2021(idh, codel, grade, diagnosis):
    assert diagnosis_of(idh, codel, grade) == diagnosis


def test_labels_are_possible_and_frequent_enough(truth):
    assert not truth.loc[truth["codel_1p19q"], "idh"].eq("wildtype").any()
    assert truth.loc[truth["codel_1p19q"], "grade"].max() == 3
    assert truth.loc[truth["idh"] == "wildtype", "grade"].min() == 3
    assert truth["diagnosis"].value_counts(normalize=True).min() > 0.09
    assert truth["grade"].value_counts(normalize=True).min() > 0.2
    for seed in range(5):
        small = truth_table(draw_cases(Settings(cases=120, seed=seed)))
        assert small["diagnosis"].value_counts().reindex(truth["diagnosis"].unique()).min() >= 5


def test_factors_are_independent_standard_normals(truth):
    factors = truth[["tumour", "microenvironment"]]
    np.testing.assert_allclose(factors.mean(), 0, atol=0.06)
    np.testing.assert_allclose(factors.cov(), np.eye(2), atol=0.07)


def test_half_the_cases_are_censored_and_censoring_is_independent(truth):
    assert 0.4 < 1 - truth["event"].mean() < 0.6
    assert truth["time_days"].min() >= 1
    # Given the hazard nothing else is left: a Cox fit on the factors finds the weights that the cases were made with.
    from lifelines import CoxPHFitter

    fit = CoxPHFitter().fit(truth[["time_days", "event", "tumour", "microenvironment"]], "time_days", "event")
    np.testing.assert_allclose(fit.params_[list(HAZARD)], list(HAZARD.values()), atol=3.5 * fit.standard_errors_.max())


def test_modalities_complement_each_other(truth):
    reachable = best_reachable(truth)
    assert 0.83 < reachable["latent"] < 0.88
    assert reachable["both"] < reachable["latent"]
    for one in ("genomics", "slides"):
        assert 0.68 < reachable[one] < reachable["both"] - 0.05


def test_best_reachable_is_harrells_c(truth):
    from lifelines.utils import concordance_index

    few = truth.head(300).assign(time_days=lambda frame: frame["time_days"] // 100)  # with many ties
    few["log_hazard"] = few["log_hazard"].round(1)
    expected = concordance_index(few["time_days"], -few["log_hazard"], few["event"])
    assert best_reachable(few)["latent"] == pytest.approx(expected, abs=1e-12)
    assert best_reachable(truth, truth["case_id"][:300]) == best_reachable(truth.head(300))
    assert np.isnan(best_reachable(truth.head(1))["latent"])


@pytest.mark.parametrize("modalities", [["genomics"], ["slides"], ["genomics", "slides"]])
def test_expected_log_hazard_is_calibrated_in_every_diagnosis(truth, modalities):
    """A conditional mean leaves residuals of mean zero, whatever it is conditioned on, and slope one."""
    expected = expected_log_hazard(truth, modalities)
    residual = truth["log_hazard"] - expected
    slope = np.polyfit(expected, truth["log_hazard"], 1)[0]
    assert slope == pytest.approx(1, abs=0.06)
    groups = truth["diagnosis"].eq("oligodendroglioma") if modalities == ["slides"] else truth["idh"]
    for _, values in residual.groupby(groups):
        assert abs(values.mean()) < 4 * values.std() / len(values) ** 0.5


def test_slides_per_case_is_the_most():
    cases = draw_cases(Settings(cases=300, seed=4, slides_per_case=3, missing=0))
    numbers = [len(case.slides) for case in cases]
    assert set(numbers) == {1, 2, 3}
    assert len({slide for case in cases for slide in case.slides}) == sum(numbers)


def test_missing_shares(truth):
    cases = draw_cases(Settings(cases=2000, seed=3, missing=0.3))
    for modality in ("expression", "alterations", "slides"):
        assert 0.07 < np.mean([not case.has[modality] for case in cases]) < 0.13
    assert max(sum(not value for value in case.has.values()) for case in cases) == 1
    assert 0.12 < np.mean([not case.has_labels for case in cases]) < 0.18
    assert all(case.has_follow_up for case in cases if case.event)
    assert 0.005 < np.mean([not case.has_follow_up for case in cases]) < 0.03
    complete = draw_cases(Settings(cases=200, missing=0))
    assert all(all(case.has.values()) and case.has_labels and case.has_follow_up for case in complete)
