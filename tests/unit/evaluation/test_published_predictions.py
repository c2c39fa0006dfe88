"""The released predictions of Pathomic Fusion come out at their published figures."""

from pathlib import Path

import pandas as pd
import pytest

from histofuse.evaluation.published_predictions import read_patient_level
from histofuse.evaluation.score import score_run
from histofuse.evaluation.summary import OTHER_CASES, PAIRED_T, summarise
from histofuse.io import InputError

RELEASED = Path(__file__).parents[3] / "../shared/data/pathomic_fusion_predictions/gbmlgg_survival_patient_level.csv.gz"


@pytest.mark.skipif(not RELEASED.exists(), reason="the released Pathomic Fusion predictions are not on this machine")
@pytest.mark.parametrize(
    ("model", "rows", "rna_subset", "published", "half_width"),
    [
        ("omic", "roi", True, 0.8077, 0.014),
        ("path", "patch", True, 0.7947, 0.013),
        ("path", "patch", False, 0.750, 0.010),
        ("pathomic_fusion", "patch", True, 0.8199, 0.009),
        ("pathgraphomic_fusion", "patch", True, 0.8252, 0.009),
    ],
)
def test_published_figures(model, rows, rna_subset, published, half_width):
    predictions = read_patient_level(RELEASED, model, rows, rna_subset)
    metrics = score_run(predictions, "survival")
    metrics = metrics[metrics["metric"] == "harrell_c"].assign(row=model, cohort="", task="", protocol="")
    row = summarise(metrics, reference=None, test_to_train=0.25).iloc[0]
    assert row["n_splits"] == 15
    assert row["estimate"] == pytest.approx(published, abs=0.001)
    assert row["half_width_t"] == pytest.approx(half_width, abs=0.001)


@pytest.mark.skipif(not RELEASED.exists(), reason="the released Pathomic Fusion predictions are not on this machine")
def test_only_models_scored_on_the_same_patients_are_tested():
    """The image model's RNA-seq subset is not that of the genomic one in every fold; the fusion model's is."""
    rows = {"omic": "roi", "path": "patch", "pathomic_fusion": "patch"}
    scored = [
        score_run(read_patient_level(RELEASED, model, of, True), "survival", anonymous=True).assign(row=model)
        for model, of in rows.items()
    ]
    metrics = pd.concat(scored).query("metric == 'harrell_c'").assign(cohort="", task="", protocol="")
    summary = summarise(metrics, reference="omic", test_to_train=0.25).set_index("row")
    assert summary["test"].to_dict() == {"omic": "", "path": OTHER_CASES, "pathomic_fusion": PAIRED_T}
    assert summary["p_value"].notna().tolist() == [False, False, True]


def released(tmp_path, **changes):
    frame = pd.DataFrame(
        {
            "model": ["omic", "omic", "path"],
            "rows": ["roi", "roi", "patch"],
            "fold": [1, 1, 1],
            "patient": [0, 1, 0],
            "risk": [-0.47657051501492997, 3.0, 0.5],
            "time": [10, 20, 10],
            "event": [1, 0, 1],
            "in_rnaseq_subset": [True, False, True],
        }
    ).assign(**changes)
    frame.to_csv(tmp_path / "released.csv", index=False, float_format="%.17g")
    return tmp_path / "released.csv"


def test_last_bits_of_the_risks_survive(tmp_path):
    frame = read_patient_level(released(tmp_path), "omic", "roi", rna_subset=False)
    assert frame["risk"].tolist() == [-0.47657051501492997, 3.0]
    assert frame["split"].tolist() == [0, 0]
    assert len(read_patient_level(released(tmp_path), "omic", "roi", rna_subset=True)) == 1


def test_absent_model_and_column_are_named(tmp_path):
    with pytest.raises(InputError, match=r"no predictions of omic \(patch\); it has omic \(roi\), path \(patch\)"):
        read_patient_level(released(tmp_path), "omic", "patch", rna_subset=True)
    path = tmp_path / "short.csv"
    pd.DataFrame({"model": ["omic"]}).to_csv(path, index=False)
    with pytest.raises(InputError, match=r"short\.csv: lacks the column rows"):
        read_patient_level(path, "omic", "roi", rna_subset=True)
