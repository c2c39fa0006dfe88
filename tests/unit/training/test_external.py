"""Another cohort's cases, predicted by a run's weights: as a forward pass by hand does, and as the run itself did."""

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from external_examples import GENES, TASK, split_of, write_cohort, write_splits

from histofuse.evaluation.predictions import check_predictions
from histofuse.genomics.expression import as_table, join_cohorts
from histofuse.io import InputError
from histofuse.models.attmil import AttMIL
from histofuse.models.concat import Concat
from histofuse.models.disentangled_student import DisentangledStudent
from histofuse.models.linear import LinearModel
from histofuse.models.registry import Estimator
from histofuse.models.snn import SNN
from histofuse.training.external import (
    genes_of,
    per_million_of,
    predict_external,
    read_at_scoring,
    read_external,
    with_columns_of,
)
from histofuse.training.run import Job, run
from histofuse.training.scaling import BlockScaler

TRAINING = {"epochs": 2, "lr": 0.01, "batch_size": 8}
MAP = {"bag": 16, "order": "raster"}


@pytest.fixture
def cohorts(tmp_path):
    """Files of the cohort trained on and of another one."""
    own = write_splits(tmp_path, write_cohort(tmp_path, "own", 32, seed=1))
    return own, write_cohort(tmp_path, "other", 14, seed=2)


def run_of(model_class, entry, files, folder):
    split = split_of(files, entry["inputs"])
    return split, run(model_class, entry, TASK, split, Job(0, 3, 1, folder / "c.pt", "d"))


def score(model_class, entry, split, result, files, population=None):
    inputs = read_at_scoring(entry["inputs"])
    population = pd.read_parquet(files["population"]) if population is None else population
    external = read_external(files, population, split, TASK, inputs)
    found = predict_external(model_class, entry, TASK, split, external, result.weights, result.predictions, 1)
    return external, *found


def table_changed(files, block, change):
    change(pd.read_parquet(files[block])).to_parquet(files[block])


def test_risks_are_those_of_a_forward_pass_by_hand(cohorts, tmp_path):
    own, other = cohorts
    entry = {"inputs": {"expression": {}}, "params": {}, "training": TRAINING}
    split, result = run_of(SNN, entry, own, tmp_path)
    _, found, slides = score(SNN, entry, split, result, other)
    values = pd.read_parquet(own["expression"])
    parts = pd.read_parquet(own["splits"]).set_index("case_id")["part"]
    train = values[values["case_id"].map(parts) == "train"][GENES]
    theirs = pd.read_parquet(other["expression"])
    x = np.clip((theirs[GENES] - train.mean()) / train.std(ddof=0), -5, 5).to_numpy(np.float32)
    model = SNN({"expression": (len(GENES),)}, 1)
    names = [name for name in result.weights if not name.startswith("scaling.")]
    model.load_state_dict({name: torch.from_numpy(result.weights[name]) for name in names})
    with torch.no_grad():
        by_hand = model.eval()({"expression": torch.from_numpy(x)}).numpy().ravel()
    test = found[found["part"] == "test"].set_index("case_id")
    np.testing.assert_allclose(test.loc[theirs["case_id"], "risk"], by_hand, rtol=1e-4, atol=1e-6)
    assert slides.empty
    check_predictions(found, "survival")


@pytest.mark.parametrize(
    ("model_class", "entry"),
    [
        (SNN, {"inputs": {"expression": {"quantile": True}}, "params": {}, "training": TRAINING}),
        (LinearModel, {"inputs": {"clinical": {"columns": ["age", "sex"]}, "expression": {"components": 3}}}),
        (
            Concat,
            {
                "inputs": {"tiles": {"bag": 12, "standardise": True}, "expression": {}},
                "params": {},
                "training": TRAINING,
                "loss": {"name": "discrete", "intervals": 4},
            },
        ),
        (AttMIL, {"inputs": {"tiles": {"bag": 12}}, "params": {}, "training": TRAINING, "aggregate": {"rows": "max"}}),
    ],
)
def test_own_test_cases_scored_as_if_external_get_their_own_predictions(model_class, entry, cohorts, tmp_path):
    own, _ = cohorts
    split, result = run_of(model_class, entry, own, tmp_path)
    mine = result.predictions[result.predictions["part"] == "test"].reset_index(drop=True)
    population = pd.read_parquet(own["population"])
    population = population[population["case_id"].isin(mine["case_id"])]
    _, found, slides = score(model_class, entry, split, result, own, population)
    again = found[found["part"] == "test"].reset_index(drop=True)
    assert again["case_id"].tolist() == mine["case_id"].tolist()
    np.testing.assert_allclose(again["risk"], mine["risk"], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(np.stack(again["survival"]), np.stack(mine["survival"]), rtol=1e-6, atol=1e-7)
    assert (np.stack(again["survival_times"]) == np.stack(mine["survival_times"])).all()
    for column in ("case_id", "time_days", "event", "risk"):
        train = result.predictions.loc[result.predictions["part"] == "train", column]
        assert found.loc[found["part"] == "train", column].tolist() == train.tolist()
    of_slides = result.slides[result.slides["part"] == "test"].reset_index(drop=True)
    assert slides["case_id"].tolist() == of_slides["case_id"].tolist()
    check_predictions(found, "survival")


def test_a_student_needs_no_genes(cohorts, tmp_path):
    """Trained beside a teacher's vectors, scored on a cohort that has neither those nor any table."""
    own, other = cohorts
    student = {"inputs": {"tiles": MAP, "tiles_10x": MAP}, "params": {"bag": 16, "combine": "mean", "width": 16}}
    student["training"] = TRAINING
    own_split = split_of(own, student["inputs"])
    teacher = own_split.rows[["case_id", "slide_id"]].copy()
    for bag in ("20x", "10x"):
        teacher[f"logits_{bag}"] = [np.zeros(1, np.float32)] * len(teacher)
        teacher[f"features_{bag}"] = [np.ones(32, np.float32)] * len(teacher)
    teacher.to_parquet(tmp_path / "vectors.parquet")
    names = [f"{kind}_{bag}" for kind in ("logits", "features") for bag in ("20x", "10x")]
    taught = student | {
        "inputs": student["inputs"] | {"teacher": {"run": "teacher", "vectors": names, "training_only": True}},
        "params": student["params"] | {"teacher": "teacher"},
    }
    split, result = run_of(DisentangledStudent, taught, own | {"teacher": tmp_path / "vectors.parquet"}, tmp_path)
    assert split.blocks
    for file in ("expression", "clinical"):
        other.pop(file)
    external, found, slides = score(DisentangledStudent, taught, split_of(own, student["inputs"]), result, other)
    assert external.blocks == {}
    test = found[found["part"] == "test"]
    assert len(test) == 14
    assert test["risk"].nunique() > 10
    assert len(slides) == len(external.rows) > 14


def test_few_genes_that_are_not_there_are_put_at_the_training_mean(cohorts, tmp_path, capsys):
    own, other = cohorts
    split = split_of(own, {"expression": {}})
    whole = read_external(other, pd.read_parquet(other["population"]), split, TASK, {"expression": {}})
    table_changed(other, "expression", lambda table: table.drop(columns="G7").assign(G9=np.nan, unread=1.0))
    fewer = read_external(other, pd.read_parquet(other["population"]), split, TASK, {"expression": {}})
    gone = [GENES.index("G7"), GENES.index("G9")]
    np.testing.assert_allclose(fewer.blocks["expression"][:, gone], 0, atol=1e-7)
    kept = np.setdiff1d(np.arange(len(GENES)), gone)
    np.testing.assert_array_equal(fewer.blocks["expression"][:, kept], whole.blocks["expression"][:, kept])
    said = capsys.readouterr().out
    assert (
        "expression: 2 of the 40 columns that the model reads are not there and get the training mean: G7, G9" in said
    )


def test_alterations_that_no_case_has_are_absent_not_unknown(cohorts, capsys):
    own, other = cohorts
    rng = np.random.default_rng(4)
    for files in cohorts:
        ids = pd.read_parquet(files["population"])["case_id"]
        calls = pd.DataFrame(rng.integers(0, 2, (len(ids), 6)), columns=[f"G{k}_mut" for k in range(6)])
        files["alterations"] = files["expression"].replace("expression", "alterations")
        calls.assign(case_id=ids).to_parquet(files["alterations"])
    inputs = {"alterations": {"standardise": False}}
    split, population = split_of(own, inputs), pd.read_parquet(other["population"])
    table_changed(other, "alterations", lambda table: table.drop(columns=["G1_mut", "G4_mut"]))
    found = read_external(other, population, split, TASK, inputs, called=True).blocks["alterations"]
    assert (found[:, [1, 4]] == 0).all()
    kept = pd.read_parquet(other["alterations"])[["G0_mut", "G2_mut", "G3_mut", "G5_mut"]]
    np.testing.assert_array_equal(found[:, [0, 2, 3, 5]], kept)
    assert "2 of 6 alterations are in no case to be scored: G1_mut, G4_mut" in capsys.readouterr().out
    with pytest.raises(InputError, match="2 of the 6 columns"):
        read_external(other, population, split, TASK, inputs)
    table_changed(other, "alterations", lambda table: table[["case_id"]].assign(TP53=1))
    with pytest.raises(InputError, match="none of the 6 alterations that the model reads is there"):
        read_external(other, population, split, TASK, inputs, called=True)


def test_genes_are_matched_by_name(cohorts):
    own, other = cohorts
    split = split_of(own, {"expression": {}})
    population = pd.read_parquet(other["population"])
    whole = read_external(other, population, split, TASK, {"expression": {}})
    table_changed(other, "expression", lambda table: table[["case_id", *reversed(GENES)]])
    turned = read_external(other, population, split, TASK, {"expression": {}})
    np.testing.assert_array_equal(turned.blocks["expression"], whole.blocks["expression"])


def test_many_genes_that_are_not_there_are_refused(cohorts):
    own, other = cohorts
    split = split_of(own, {"expression": {}})
    table_changed(other, "expression", lambda table: table.drop(columns=["G3", "G4", "G5"]))
    with pytest.raises(InputError, match=r"expression: 3 of the 40 columns .* \(e.g. G3\); at most 5% may be"):
        read_external(other, pd.read_parquet(other["population"]), split, TASK, {"expression": {}})


def test_a_column_of_text_that_is_not_there_is_refused(cohorts):
    own, other = cohorts
    inputs = {"clinical": {"columns": ["age", "sex"]}}
    split = split_of(own, inputs)
    table_changed(other, "clinical", lambda table: table.assign(sex=None))
    with pytest.raises(InputError, match=r"clinical: 1 of the 2 columns .* \(e.g. sex\)"):
        read_external(other, pd.read_parquet(other["population"]), split, TASK, inputs)


def test_what_was_constant_in_training_is_not_asked_for():
    train = pd.DataFrame({"a": [0.0, 1, 2], "b": [5.0, 5, 5], "text": ["x", "x", "x"]})
    scaler = BlockScaler().fit(train)
    found = with_columns_of(scaler, pd.DataFrame({"a": [1.0, 3]}), "clinical")
    np.testing.assert_allclose(scaler.apply(found), [[0.0], [2 / np.std([0, 1, 2])]], rtol=1e-6)


def test_genes_ranked_against_training_get_its_median():
    train = pd.DataFrame({f"G{k}": np.exp(np.arange(9.0)) for k in range(30)})
    scaler = BlockScaler(quantile=True).fit(train)
    found = with_columns_of(scaler, train.drop(columns="G4").head(2), "expression")
    assert scaler.apply(found)[:, 4].tolist() == [0.0, 0.0]


def test_cases_that_were_trained_on_are_refused(cohorts):
    own, _ = cohorts
    split = split_of(own, {"expression": {}})
    with pytest.raises(InputError, match=r"24 cases to be scored were trained on \(e.g. own00\)"):
        read_external(own, pd.read_parquet(own["population"]), split, TASK, {"expression": {}})


def test_features_of_another_width_are_refused(cohorts):
    own, other = cohorts
    split = split_of(own, {"tiles": {}})
    split.bags["tiles"].width = 7
    with pytest.raises(InputError, match=r"tiles: the features have 6 values per tile, those trained on 7"):
        read_external(other, pd.read_parquet(other["population"]), split, TASK, {"tiles": {}})


def member(name, cases, own_genes, seed):
    """A cohort's matrix, of which the shared genes are some and take a share of all reads that is its own."""
    rng = np.random.default_rng(seed)
    names = sorted([*GENES, *own_genes])
    tpm = rng.gamma(0.7, 1.0, (cases, len(names))) * np.where(np.isin(names, GENES), 1.0, 20.0)
    tpm = (tpm / tpm.sum(axis=1, keepdims=True) * 1e6).astype(np.float32)
    ids = [f"{name}{k:02d}" for k in range(cases)]
    return AnnData(
        obs=pd.DataFrame(index=ids), var=pd.DataFrame(index=names), layers={"tpm": tpm, "log_tpm": np.log2(1 + tpm)}
    )


def test_a_member_of_a_meta_cohort_scored_as_if_external_has_the_same_inputs(tmp_path, capsys):
    """TPM of the one file are per million of all its genes, those trained on per million of the genes shared."""
    members = [("own", member("own", 32, ["A"], 1)), ("other", member("other", 14, ["B", "C"], 2))]
    own = write_cohort(tmp_path, "own", 32, seed=1)
    other = write_cohort(tmp_path, "other", 14, seed=2)
    both = write_splits(tmp_path, own)
    for file in ("population", "splits"):
        frames = [pd.read_parquet(both[file]), pd.read_parquet(other["population"]).assign(split=0, part="test")]
        both[file] = str(tmp_path / f"both_{file}.parquet")
        columns = frames[0].columns
        pd.concat([frame[columns] for frame in frames], ignore_index=True).to_parquet(both[file])
    both["expression"] = str(tmp_path / "joined.parquet")
    as_table(join_cohorts(members)).to_parquet(both["expression"])
    as_table(members[1][1]).to_parquet(other["expression"])
    inputs = {"genes": {"from": "expression"}}
    files = both | {"genes": both["expression"]}
    split = split_of(files, inputs)
    population = pd.read_parquet(other["population"])
    genes = genes_of(files, inputs)
    assert genes == sorted(GENES)
    external = read_external(other | {"genes": other["expression"]}, population, split, TASK, inputs, genes=genes)
    mine = split.blocks["genes"][split.rows["case_id"].isin(population["case_id"]).to_numpy()]
    np.testing.assert_allclose(external.blocks["genes"], mine, rtol=1e-4, atol=1e-4)
    assert "genes: TPM are scaled to a million over 40 of the 40 genes" in capsys.readouterr().out
    unscaled = read_external(other | {"genes": other["expression"]}, population, split, TASK, inputs)
    assert (unscaled.blocks["genes"] - mine).mean() < -0.3  # the gap that is to be closed


def test_tpm_over_genes_of_which_some_are_not_there():
    table = pd.DataFrame({"A": [2.0, 0.0], "B": [1.0, 3.0], "X": [9.0, 9.0], "C": [np.nan, np.nan]}, index=["i", "j"])
    found = per_million_of(["A", "B", "C", "D"], table, "expression")
    assert found.columns.tolist() == ["A", "B"]
    np.testing.assert_allclose(np.exp2(found) - 1, [[7.5e5, 2.5e5], [0, 1e6]], rtol=1e-9)
    with pytest.raises(InputError, match="expression: the cohort to be scored has 2 of the 5 genes"):
        per_million_of(["A", "B", "C", "D", "E"], table, "expression")
    with pytest.raises(InputError, match="expression: case j expresses none of the genes"):
        per_million_of(["A"], table, "expression")
    with pytest.raises(InputError, match=r"is log2\(1 \+ TPM\), .* reaches from -1 to 8"):
        per_million_of(["A", "X"], table - 1, "expression")


def test_genes_are_those_of_the_table_of_expression_if_one_is_read(cohorts):
    own, _ = cohorts
    assert genes_of(own, {"clinical": {}}) is None
    assert genes_of(own | {"tumour": own["expression"]}, {"clinical": {}, "tumour": {"from": "expression"}}) == GENES


def test_cases_of_another_source_are_scaled_by_the_figures_of_all_training_cases(cohorts, capsys):
    own, other = cohorts
    population = pd.read_parquet(own["population"])
    sources = population[["case_id"]].assign(source=np.where(np.arange(len(population)) < 16, "a", "b"))
    table_changed(own, "expression", lambda table: table.assign(G0=table["G0"] + 3 * (sources["source"] == "b")))
    cases = own["population"].replace("population", "cases")
    sources.to_parquet(cases)
    pooled = read_external(
        other, pd.read_parquet(other["population"]), split_of(own, {"expression": {}}), TASK, {"expression": {}}
    )
    inputs = {"expression": {"per_source": True}}
    split = split_of(own | {"cases": cases}, inputs)
    assert set(split.scalers["expression"].figures) == {"", "a", "b"}
    found = read_external(other, pd.read_parquet(other["population"]), split, TASK, read_at_scoring(inputs))
    np.testing.assert_allclose(found.blocks["expression"], pooled.blocks["expression"], rtol=1e-6)
    assert "expression: scaled by the figures of all training cases, as none are of" in capsys.readouterr().out


def test_data_that_changed_after_the_run_are_refused(cohorts, tmp_path):
    own, other = cohorts
    entry = {"inputs": {"expression": {}}, "params": {}, "training": TRAINING}
    _, result = run_of(SNN, entry, own, tmp_path)
    table_changed(own, "expression", lambda table: table.assign(G1=table["G1"] * 2))
    with pytest.raises(InputError, match=r"scaling.expression.\w+ is not that of the run's weights: .* train again"):
        score(SNN, entry, split_of(own, entry["inputs"]), result, other)


class NoWayBack(Estimator):
    """Predicts the mean of its inputs, and keeps nothing."""

    def fit(self, blocks, target):
        return self

    def predict(self, blocks):
        return blocks["expression"].mean(axis=1)

    def weights(self):
        return {}


def test_an_estimator_that_cannot_be_restored_is_refused_by_name(cohorts, tmp_path):
    own, other = cohorts
    entry = {"inputs": {"expression": {}}}
    split, result = run_of(NoWayBack, entry, own, tmp_path)
    with pytest.raises(InputError, match="NoWayBack cannot predict from its weights: it has no method restore"):
        score(NoWayBack, entry, split, result, other)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"run": "vgg19", "vectors": ["image"]}, "vectors of another run"),
        ({"shuffled": True}, "shuffled within the parts"),
        ({"from": "source"}, "tells the source cohort"),
    ],
)
def test_inputs_without_a_meaning_on_another_cohort_are_refused(options, reason):
    with pytest.raises(InputError, match=f"inputs: block: .*{reason}"):
        read_at_scoring({"block": options})
