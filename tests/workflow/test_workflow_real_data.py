"""Real data: the released predictions give the published figures, and one fold of the TCGA table is as published."""

import io
import zipfile

import pandas as pd
import pytest
import yaml
from lifelines import CoxPHFitter
from workflow_examples import NO_SHARED, ROOT, SHARED, Checkout

from histofuse.evaluation.survival import harrell_c

pytestmark = pytest.mark.skipif(not SHARED.exists(), reason=NO_SHARED)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the workflow with ../shared beside it, as the repository has it."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "shared").symlink_to(SHARED)
    return Checkout(folder / "repository")


@pytest.fixture(scope="module")
def released(checkout):
    checkout.snakemake("tables", "--configfile", "config/published_predictions.yaml")
    table = pd.read_csv(checkout / "results/tables/pathomic_fusion_released.csv")
    return table[table["metric"] == "harrell_c"].set_index("row")


@pytest.mark.parametrize(
    ("row", "estimate", "half_width"),
    [
        ("SNN (omic)", 0.8077, 0.014),
        ("CNN (path)", 0.7947, 0.013),
        ("CNN + SNN (pathomic fusion)", 0.8199, 0.009),
        ("CNN + GCN + SNN (pathgraphomic fusion)", 0.8252, 0.009),
    ],
)
def test_released_predictions_give_the_published_figures(released, row, estimate, half_width):
    assert released.loc[row, "estimate"] == pytest.approx(estimate, abs=0.001)
    assert released.loc[row, "half_width_t"] == pytest.approx(half_width, abs=0.001)
    assert released.loc[row, "n_splits"] == 15


@pytest.fixture(scope="module")
def fold(checkout):
    """Predictions of two models on the first published fold, with the table and the split file they came from."""
    targets = {
        model: f"results/tcga_gbmlgg/runs/survival/published5/{model}/split0/seed0/predictions.parquet"
        for model in ("clinical_diagnosis", "penalised_alterations")
    }
    run = ("--configfile", "config/tcga_tables.yaml", "--config", "mirror=../shared/mirror")
    checkout.snakemake(*targets.values(), *run)
    raw, split = published_files()
    predictions = {model: pd.read_parquet(checkout / target) for model, target in targets.items()}
    return predictions, raw.drop_duplicates("case_id").set_index("case_id"), split


@pytest.mark.parametrize("model", ["clinical_diagnosis", "penalised_alterations"])
def test_published_fold_has_the_cases_and_outcomes_of_its_files(fold, model):
    predictions, raw, split = fold[0][model], fold[1], fold[2]
    of_table = raw.loc[predictions["case_id"]]

    assert set(predictions.query("part == 'test'")["case_id"]) == set(split["val"].dropna())
    assert set(predictions.query("part == 'train'")["case_id"]) == set(split["train"].dropna())
    assert (predictions["event"].to_numpy() == 1 - of_table["censorship"].to_numpy()).all()
    assert predictions["time_days"].to_numpy() / 30.4375 == pytest.approx(of_table["survival_months"].to_numpy())


def test_clinical_cox_on_a_published_fold_agrees_with_lifelines(fold):
    predictions, raw, split = fold[0]["clinical_diagnosis"], fold[1], fold[2]
    table = pd.get_dummies(raw[["age", "is_female", "oncotree_code"]], columns=["oncotree_code"], dtype=float)
    table = table.drop(columns="oncotree_code_GBM").assign(T=raw["survival_months"], E=1 - raw["censorship"])
    cox = CoxPHFitter().fit(table.loc[split["train"].dropna()], "T", "E")
    tested = predictions[predictions["part"] == "test"]

    reached = harrell_c(*(tested[name].to_numpy() for name in ("risk", "time_days", "event")))

    theirs = cox.predict_log_partial_hazard(table.loc[tested["case_id"]]).to_numpy()
    expected = harrell_c(theirs, tested["time_days"].to_numpy(), tested["event"].to_numpy())
    assert reached == pytest.approx(expected, abs=0.01)


def published_files():
    """The table and its first split file, straight from the mirror."""
    cohort = yaml.safe_load((ROOT / "config/tcga_tables.yaml").read_text())["cohorts"]["tcga_gbmlgg"]
    table, split = (
        SHARED / "mirror" / file["url"].removeprefix("https://")
        for file in (cohort["table"], cohort["splits"]["published5"][0])
    )
    with zipfile.ZipFile(table) as archive:
        (name,) = archive.namelist()
        return pd.read_csv(io.BytesIO(archive.read(name)), low_memory=False), pd.read_csv(split)
