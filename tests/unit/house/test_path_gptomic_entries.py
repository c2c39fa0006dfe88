"""Path-GPTOmic's entries as they stand: what MLP-B, the SNN and the fusions are given, and which rows are there."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from merged_entries import merged

from histofuse.models.path_gptomic import PathGPTOmic
from histofuse.models.path_omics import PathOmics
from histofuse.training.dataset import load_split

CONFIG = Path(__file__).parents[3] / "config"
READ = {name: yaml.safe_load((CONFIG / f"{name}.yaml").read_text()) for name in ("models", "paper", "config")}
SMOOTHED, RAW = ["path_gptomic", "path_gptomic_exp4", "path_gptomic_exp5"], ["path_gptomic_exp2", "path_gptomic_exp3"]
CONTROLS = ["path_gptomic_unmixed", "path_gptomic_embedding_mixup", "path_gptomic_untrained", "path_gptomic_pca"]
FUSIONS = [f"pathomic_fusion_{images}_{cohort}" for images in ("cnn", "t2t") for cohort in ("gbmlgg", "kirc")]


def entry(name, config="paper"):
    """A model entry under a configuration, with all that it inherits."""
    found = merged(READ["models"]["models"].get(name, {}), READ[config]["models"].get(name, {}))
    parent = found.pop("extends", None)
    return merged(entry(parent, config), found) if parent else found


def models_of(table):
    return [row["model"] for row in READ["paper"]["tables"][table]["rows"]]


@pytest.fixture
def tables():
    """Twenty cases: every fourth is codeleted, which its calls tell as a loss of one copy; embeddings of length one."""
    rng = np.random.default_rng(0)
    ids = [f"C{k:02}" for k in range(20)]
    number = np.arange(20)
    unit = rng.normal(size=(20, 8)) + 9
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    subtype = {"idh": np.where(number % 2, "wildtype", "mutant"), "codel_1p19q": pd.array(number % 4 == 0, "boolean")}
    calls = {"IDH1_mut": 1 - number % 2, "CIC_cnv": -(number % 4 == 0).astype(int), "EGFR_cnv": 2 * (number % 2)}
    made = {
        "clinical": {"age": 50.0, "time_days": 1.0} | subtype,
        "alterations": calls,
        "scgpt": {f"scgpt{k}": unit[:, k].astype(np.float32) for k in range(8)},
        "expression": {f"G{k}": rng.normal(size=20) for k in range(5)},
    }
    return {name: pd.DataFrame({"case_id": ids} | columns) for name, columns in made.items()}


def loaded(tables, name, **changes):
    """The split of the entry's tables, without its images."""
    ids = tables["clinical"]["case_id"]
    population = pd.DataFrame({"case_id": ids, "time_days": np.arange(1.0, 21), "event": 1, "label": 0})
    splits = pd.DataFrame({"split": 0, "case_id": ids, "part": ["train"] * 16 + ["test"] * 4})
    inputs = {block: options for block, options in entry(name, **changes)["inputs"].items() if block != "regions"}
    return load_split(population, splits, 0, {"kind": "survival"}, inputs, {block: tables[block] for block in inputs})


@pytest.mark.parametrize(
    "name",
    [
        *(f"{name}{cohort}" for name in SMOOTHED + RAW for cohort in ("", "_gbmlgg", "_kirc")),
        *(f"{name}_gbmlgg" for name in CONTROLS[:3]),
    ],
)
def test_mlp_b_is_given_the_embedding_as_it_is(tables, name):
    split = loaded(tables, name)
    np.testing.assert_array_equal(split.blocks["scgpt"], tables["scgpt"].drop(columns="case_id").to_numpy(np.float32))
    found, raw = entry(name), name.startswith(tuple(RAW))
    assert (found["inputs"]["scgpt"]["smoothing"] is None) == raw
    assert found["params"].get("scale_embedding", False) == raw  # unit vectors alone; MLP-A scales them itself


def test_experiments_two_and_three_scale_unit_vectors(tables):
    small = {"image": {"encoder": {"width": 8, "depth": 1, "heads": 2, "token_width": 4}}}
    params = merged(entry("path_gptomic_exp3", "config")["params"], small)
    split = loaded(tables, "path_gptomic_exp3", config="config")
    model = PathGPTOmic({"regions": (3, 16, 16)} | split.shapes, 1, **params)
    np.testing.assert_allclose(np.mean((model.factor * split.blocks["scgpt"]) ** 2, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    "name", sorted({model for table in (1, 3) for model in models_of(f"path_gptomic_table{table}")} - {"scnn"})
)
def test_genomic_rows_of_gliomas_know_idh_and_1p19q(tables, name):
    """A loss of one copy is not what `min_frequency` counts, so that calls alone would not tell a codeletion."""
    inputs = entry(name)["inputs"]
    if set(inputs) == {"regions"}:
        return
    columns = inputs["clinical"]["columns"]
    assert {"idh", "codel_1p19q"} <= set(columns) or "diagnosis" in columns
    if name == "path_gptomic_gbmlgg":
        split = loaded(tables, name)
        assert split.scalers["alterations"].names == ["IDH1_mut", "EGFR_cnv"]
        assert split.scalers["clinical"].names == ["idh=wildtype", "codel_1p19q=True"]
        assert ((split.blocks["clinical"][:, 1] > 0) == tables["clinical"]["codel_1p19q"]).all()


def test_no_row_of_kirc_asks_for_a_subtype_of_gliomas():
    models = models_of("path_gptomic_table2") + models_of("path_gptomic_table3_kirc")
    columns = [entry(model)["inputs"].get("clinical", {}).get("columns", []) for model in models]
    assert not {"idh", "codel_1p19q"} & {column for of_model in columns for column in of_model}


@pytest.mark.parametrize("name", [*FUSIONS, "pathomic_fusion_t2t_joint"])
def test_a_fusion_starts_from_a_bounded_snn_of_the_same_tables(name):
    def tables_of(inputs):
        return {block: options for block, options in inputs.items() if block != "regions" and "run" not in options}

    found = entry(name)
    start = entry(found["starts_from"][0]["model"])
    assert found["params"]["bounded"]
    assert start["params"]["bounded"]
    assert list(tables_of(found["inputs"]).items()) == list(start["inputs"].items())


@pytest.mark.parametrize("cohort", ["gbmlgg", "kirc"])
def test_the_genomic_row_is_the_snn_that_the_fusions_start_from(cohort):
    rows = READ["paper"]["tables"][f"path_gptomic_table{1 if cohort == 'gbmlgg' else 2}"]["rows"]
    row = next(row for row in rows if row["label"] == "Genomic SNN")
    assert row["model"] == entry(f"pathomic_fusion_cnn_{cohort}")["starts_from"][0]["model"]


def test_no_vector_is_gated_on_kirc():
    names = ["pathomic_fusion_cnn_kirc", "pathomic_fusion_t2t_kirc", "path_gptomic_exp5_kirc"]
    assert [entry(name)["params"]["gate_image"] for name in names] == [False] * 3
    assert "gate_image" not in entry("path_gptomic_exp5_gbmlgg")["params"]  # the class's default: gated


@pytest.mark.parametrize("cohort", ["gbmlgg", "kirc"])
def test_the_ablation_draws_what_modulation_does_and_what_it_would_have_done(cohort):
    table = READ["paper"]["tables"]["path_gptomic_table3" + ("_kirc" if cohort == "kirc" else "")]
    assert table["modulation"] == [f"path_gptomic_{cohort}", f"path_gptomic_exp4_{cohort}"]
    assert READ["config"]["tables"]["path_gptomic_table3"]["modulation"] == ["path_gptomic", "path_gptomic_exp4"]


def test_the_ablation_has_the_controls_of_smoothing_and_the_runs_by_sgd():
    assert {f"{name}_gbmlgg" for name in CONTROLS} <= set(models_of("path_gptomic_table3"))
    assert {"path_gptomic_sgd_gbmlgg", "path_gptomic_sgd_exp4_gbmlgg"} <= set(models_of("path_gptomic_table3"))
    read = {entry(model)["inputs"].get("scgpt", {}).get("smoothing") for model in models_of("path_gptomic_table3")}
    assert read - {None} == set(READ["models"]["smoothings"])
    pca = entry("path_gptomic_pca_gbmlgg")
    assert (pca["params"]["embedding"], pca["inputs"]["expression"]["components"]) == ("expression", 128)
    assert entry("path_gptomic_zscored_gbmlgg")["inputs"]["scgpt"]["standardise"]
    training = entry("path_gptomic_sgd_gbmlgg")["training"]
    assert (training["optimiser"], training["lr"], training["branch_lr"]) == ("sgd", 0.01, {"image": 0.001})
    assert entry("path_gptomic_sgd_exp4_gbmlgg")["training"] == training | {"modulation": {"apply": "none"}}


def test_path_omics_has_a_token_per_table_of_its_entry():
    """Six families of genes and the alterations; on gliomas the subtype is one more."""
    for name, groups in (("path_omics", 7), ("path_omics_kirc", 7), ("path_omics_gbmlgg", 8)):
        inputs = entry(name)["inputs"]
        shapes = {block: (1024,) if block == "tiles" else (100,) for block in inputs}
        assert len(PathOmics(shapes, 4, width=8).groups) == groups
