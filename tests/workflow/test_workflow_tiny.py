"""The whole workflow on a tiny simulated cohort, from raw files to the report: what it makes."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from histofuse.evaluation.predictions import check_predictions

SHAPE = [
    "table",
    "row",
    "cohort",
    "task",
    "metric",
    "estimate",
    "ci_low",
    "ci_high",
    "n_splits",
    "n_seeds",
    "published",
    "published_ci",
    "p_value",
    "p_adjusted",
    "reference_row",
]


@pytest.fixture(scope="module")
def report_page(tiny_grid):
    """The report without its embedded images."""
    return re.sub(r"data:[^\"]+", "", (tiny_grid / "results/report/index.html").read_text())


@pytest.mark.parametrize(
    ("table", "rows", "metrics"),
    [
        ("tiny_survival", 5, 2),
        ("tiny_grading", 2, 2),
        ("tiny_spaces", 4, 1),
        ("tiny_regions", 3, 1),
        ("tiny_two_cohorts", 3, 1),
        ("tiny_tuned", 2, 1),
        ("tiny_subspaces", 3, 2),
    ],
)
def test_table_is_complete_and_has_the_fixed_shape(tiny_grid, table, rows, metrics):
    frame = pd.read_csv(tiny_grid / f"results/tables/{table}.csv")

    assert list(frame.columns[: len(SHAPE)]) == SHAPE
    assert len(frame) == rows * metrics
    assert frame["estimate"].between(0, 1).all()
    assert (frame["n_splits"] == 2).all()
    assert (frame["status"] == "run").all()
    others = (frame["row"] != frame["reference_row"]) & frame["scored_on"].isna()
    assert frame.loc[others, "p_adjusted"].notna().all()
    for suffix in ("md", "tex"):
        text = (tiny_grid / f"results/tables/{table}.{suffix}").read_text()
        assert all(row in text for row in frame["row"])
        assert "Simulated cohort" in text


@pytest.mark.parametrize(
    "figure",
    [
        "tiny_survival/intervals",
        "tiny_survival/kaplan_meier_concat_short",
        "tiny_survival/heatmaps_attmil",
        "tiny_survival/heatmaps_attmil_regions",
        "tiny_grading/roc",
        "tiny_grading/sensitivity",
        "tiny_regions/hazards_path_gptomic",
        "tiny_regions/modulation_path_gptomic",
        "tiny_subspaces/heatmaps_ks_fusion",
        "tiny_subspaces/sampling_points_ks_fusion",
        "tiny_subspaces/gene_importance_ks_fusion",
        "embeddings/scgpt/interpolation",
    ],
)
def test_figure_is_drawn_as_svg_and_png(tiny_grid, figure):
    assert (tiny_grid / f"results/figures/{figure}.svg").read_text().rstrip().endswith("</svg>")
    assert (tiny_grid / f"results/figures/{figure}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("task", "kind", "model"),
    [("survival", "survival", model) for model in ("clinical", "snn_genomic", "attmil", "concat_short")]
    + [("survival_regions", "survival", model) for model in ("t2t_vit", "pathomic_fusion_cnn", "path_gptomic")]
    + [("grading", "classification", "concat_short")],
)
def test_predictions_hold_their_contract(tiny_grid, task, kind, model):
    population = pd.read_parquet(tiny_grid / f"results/tiny/populations/{task}.parquet")
    for split in range(2):
        run = f"results/tiny/runs/{task}/mccv2/{model}/split{split}/seed0"
        predictions = pd.read_parquet(tiny_grid / run / "predictions.parquet")

        check_predictions(predictions, kind)
        assert set(predictions["case_id"]) == set(population["case_id"])
        assert set(predictions["part"]) == {"train", "test"}
        assert (tiny_grid / run / "weights.safetensors").stat().st_size > 0
    assert not list((tiny_grid / "resources").glob("checkpoints/**/*.pt")), "a finished run needs no checkpoint"


def test_runs_hand_on_weights_and_vectors(tiny_grid):
    """Image vectors of every fixed crop, and the SNN's weights, of the split's own runs; held in the first epoch."""
    runs = tiny_grid / "results/tiny/runs/survival_regions/mccv2"
    vectors = pd.read_parquet(runs / "vgg19/split1/seed0/vectors.parquet")
    assert list(vectors) == ["case_id", "slide_id", "region", "crop", "image"]
    assert vectors.groupby("region").size().nunique() == 1
    assert vectors["image"].map(len).eq(8).all()
    ours = load_file(runs / "pathomic_fusion_cnn/split1/seed0/weights.safetensors")
    theirs = load_file(runs / "snn_genomic_bounded/split1/seed0/weights.safetensors")
    assert ours["genomic.0.weight"].shape == theirs["encoder.0.weight"].shape
    # Two epochs at a learning rate of 0.0001 move them by no more than that, where a fresh start would lie far away.
    assert abs(ours["genomic.0.weight"] - theirs["encoder.0.weight"]).max() < 0.01


def test_tuned_rows_are_trained_as_tuning_chose_without_test_cases(tiny_grid, report_page):
    trials = pd.read_csv(tiny_grid / "results/tunings/tiny_tuned.csv")
    assert trials["row"].tolist() == ["SNN"] * 4  # the clinical row is fitted without gradient steps
    assert trials.groupby("split")["chosen"].sum().tolist() == [1, 1]
    assert trials.loc[trials["trial"] == 0, "lr"].nunique() == 1
    runs = tiny_grid / "results/tiny/runs/survival/mccv2"
    for split in (0, 1):
        chosen = json.loads((runs / f"snn_genomic@two/split{split}/tuning/tuning.json").read_text())["settings"]
        with safe_open(runs / f"snn_genomic@two/split{split}/seed0/weights.safetensors", "np") as file:
            training = json.loads(file.metadata()["model"])["training"]
        assert {key: training[key] for key in chosen} == chosen
    inner = pd.read_parquet(tiny_grid / "results/tiny/inner_splits/survival/mccv2/two.parquet")
    splits = pd.read_parquet(tiny_grid / "results/tiny/splits/mccv2.parquet")
    parts = inner.merge(splits, on=["split", "case_id"], suffixes=("_inner", "_outer"))
    assert len(parts) == len(inner)
    assert set(parts["part_inner"]) == {"train", "val"}
    assert set(parts["part_outer"]) == {"train"}
    assert not list((tiny_grid / "resources/checkpoints").glob("**/tuning")), "a finished tuning needs no checkpoint"
    assert "Every network was tuned alike: the best of 2 settings (lr, weight_decay)" in report_page
    assert "own settings kept" in report_page


def test_a_student_is_taught_by_the_teacher_of_its_split(tiny_grid):
    runs = tiny_grid / "results/tiny_meta/runs/survival_intervals/mccv2"
    taught = pd.read_parquet(runs / "disentangled_distilled/split0/seed0/history.parquet")
    alone = pd.read_parquet(runs / "disentangled_student/split0/seed0/history.parquet")
    assert taught["loss_distillation_logits"].gt(0).all()
    assert not [name for name in alone if name.startswith("loss_")]


def test_a_student_is_scored_on_slides_of_another_cohort(tiny_grid, report_page):
    """Without genes there, without training anew: as many models as were trained, all on the same cases."""
    table = pd.read_csv(tiny_grid / "results/tables/tiny_subspaces.csv")
    lines = table[table["scored_on"] == "tiny_cptac"].set_index("metric")
    assert set(lines["cohort"]) == {"tiny_meta"}
    assert lines["p_value"].isna().all()
    assert lines["half_width_t"].isna().all()
    low, estimate, high = lines.loc["harrell_c", ["ci_low", "estimate", "ci_high"]]
    assert low < estimate < high
    assert lines.loc["slide_harrell_c", "estimate"] != estimate
    folder = tiny_grid / "results/tiny_meta/scored_on/tiny_cptac/survival_intervals/mccv2/disentangled_distilled"
    population = pd.read_parquet(tiny_grid / "results/tiny_cptac/populations_scored/survival_intervals.parquet")
    assert (lines["n_external"] == len(population)).all()
    for split in range(2):
        predictions = pd.read_parquet(folder / f"split{split}/seed0/predictions.parquet")
        check_predictions(predictions, "survival")
        test = predictions[predictions["part"] == "test"]
        assert test["case_id"].tolist() == sorted(population["case_id"])
        assert test["case_id"].str.fullmatch(r"C3[LN]-\d{5}").all()
        slides = pd.read_parquet(folder / f"split{split}/seed0/slides.parquet")
        assert slides["slide_id"].str.fullmatch(r"C3[LN]-\d{5}-2\d").all()
        assert len(slides) > len(test)
    assert not (tiny_grid / "results/tiny_cptac/genomics").exists()
    assert not (tiny_grid / "results/tiny_cptac/runs").exists()
    assert "Scored on Tiny external glioma" in report_page


def test_slides_are_scored_beside_their_cases(tiny_grid):
    """With one slide per case both figures are the same, also of a model that reads no slides."""
    table = pd.read_csv(tiny_grid / "results/tables/tiny_subspaces.csv")
    table = table[table["scored_on"].isna()].pivot(index="row", columns="metric")
    pd.testing.assert_frame_equal(
        table.xs("harrell_c", axis=1, level="metric")[["estimate", "ci_low", "ci_high"]],
        table.xs("slide_harrell_c", axis=1, level="metric")[["estimate", "ci_low", "ci_high"]],
    )
    assert "Harrell C per slide" in (tiny_grid / "results/tables/tiny_subspaces.md").read_text()
    runs = tiny_grid / "results/tiny/runs/survival/mccv2"
    slides = pd.read_parquet(runs / "attmil/split0/seed0/slides.parquet")
    assert slides["slide_id"].is_unique
    assert set(slides["part"]) == {"train", "test"}
    assert pd.read_parquet(runs / "clinical/split0/seed0/slides.parquet").empty
    clinical = pd.read_parquet(tiny_grid / "results/tiny/metrics/survival/mccv2/clinical.parquet")
    values = clinical.pivot(index="split", columns="metric", values="value")
    assert values["slide_harrell_c"].tolist() == values["harrell_c"].tolist()


def test_networks_are_trained_as_their_task_has_it(tiny_grid):
    """Of two epochs by their entries, and four in this task alone."""
    runs = tiny_grid / "results/tiny_meta/runs/survival_intervals/mccv2"
    assert len(pd.read_parquet(runs / "ks_fusion/split0/seed0/history.parquet")) == 4
    with safe_open(runs / "ks_fusion/split0/seed0/weights.safetensors", "np") as file:
        assert json.loads(file.metadata()["model"])["training"]["epochs"] == 4
    other = tiny_grid / "results/tiny/runs/survival/mccv2/concat_short/split0/seed0/history.parquet"
    assert len(pd.read_parquet(other)) == 2


def test_subspaces_are_moved_by_their_own_genes(tiny_grid):
    runs = tiny_grid / "results/tiny_meta/runs/survival_intervals/mccv2/ks_fusion"
    importance = pd.concat([pd.read_parquet(runs / f"split{k}/seed0/gene_importance.parquet") for k in range(2)])
    assert set(importance["input"]) == {"tiles", "tumour", "microenvironment"}
    moved = importance[importance["column"] == ""].groupby(["input", "branch"])["change"].mean()
    for own, other in (("tumour", "microenvironment"), ("microenvironment", "tumour")):
        assert moved[own, own] > 0.1
        assert moved[own, other] < 1e-5  # but for rounding


def test_cases_without_regions_are_set_aside_for_all_rows(tiny_grid):
    folder = tiny_grid / "results/tiny"
    regions = set(pd.read_parquet(folder / "regions/dense/index.parquet")["case_id"])
    assert set(pd.read_parquet(folder / "populations/survival_regions.parquet")["case_id"]) <= regions
    aside = pd.read_csv(folder / "populations/survival_regions_excluded.tsv", sep="\t").set_index("case_id")["reason"]
    without = sorted(set(aside.index) - regions)
    assert without
    assert aside[without].str.contains("no regions (dense)", regex=False).all()


def test_history_tells_how_branches_were_balanced(tiny_grid):
    run = "results/tiny/runs/survival_regions/mccv2/path_gptomic/split0/seed0"
    history = pd.read_parquet(tiny_grid / run / "history.parquet")
    assert history["epoch"].tolist() == [0, 1]
    for branch in ("genomic", "image"):
        assert history[f"k_{branch}"].between(0, 1, inclusive="right").all()
        assert history[f"rho_{branch}"].gt(0).all()
        assert history[f"c_{branch}"].between(0, 1).all()
        assert all(len(steps) == 2 for steps in history[f"k_steps_{branch}"])  # of the one full batch and the rest


def test_broken_slides_are_named_with_their_reasons(tiny_grid, report_page):
    slides = pd.read_parquet(tiny_grid / "results/tiny/slides/resnet50_20x/slides.parquet")
    aside = slides[slides["status"] == "excluded"].set_index("slide_id")["reason"]

    assert len(aside) == 3
    for slide in aside.index:
        assert slide in report_page
    for reason in ("damaged: cannot be read at", "no magnification", "no tissue found"):
        assert aside.str.contains(reason).sum() == 1
        assert reason in report_page


def test_slides_are_normalised_and_their_stains_kept(tiny_grid):
    slides = pd.read_parquet(tiny_grid / "results/tiny/slides/resnet50_20x/slides.parquet")
    used = slides[slides["status"] == "used"]

    assert set(used["stain"]) == {"macenko"}
    assert set(used["stain_reason"]) == {""}
    assert used[["haematoxylin_r", "haematoxylin_p99", "eosin_g", "eosin_p99"]].gt(0).all(axis=None)


def test_packed_tiles_keep_their_places(tiny_grid):
    folder = tiny_grid / "results/tiny/slides/resnet50_20x"
    index = pd.read_parquet(folder / "index.parquet")
    coords = np.fromfile(folder / "coords.i32", "<i4").reshape(-1, 2)
    assert len(coords) == index["n_tiles"].sum()
    assert (coords >= 0).all()
    assert (coords % index["side"].iloc[0] == 0).all()


def test_regions_are_cut_and_their_crops_encoded(tiny_grid, report_page):
    regions = pd.read_parquet(tiny_grid / "results/tiny/regions/dense/index.parquet")
    assert (tiny_grid / "results/tiny/regions/dense/regions.u8").stat().st_size == len(regions) * 256 * 256 * 3
    crops = pd.read_parquet(tiny_grid / "results/tiny/slides/regions_20x/index.parquet").set_index("slide_id")
    per_slide = regions["slide_id"].value_counts()
    assert set(per_slide) <= {1, 2}
    assert (crops["n_tiles"] == 9 * per_slide[crops.index]).all()


def test_images_without_a_resolution_get_it_from_their_source(tiny_grid):
    slides = pd.read_parquet(tiny_grid / "results/tiny_meta/slides/resnet50_20x/slides.parquet")
    images = slides[slides["format"] == "jpeg"]
    assert len(images) == 16
    assert (images["status"] == "used").all()
    assert images["mpp"].between(0.4, 0.6).all()
    others = slides.loc[~slides["format"].isin(["jpeg", "aperio"])]  # what damaged slides were taken for
    assert (others["status"] == "excluded").all()
    assert not slides["format"].isna().any()


def test_report_says_that_the_cohort_is_simulated(report_page):
    assert "Simulated cohort: these figures show that the workflow runs" in report_page
    assert "Tiny glioma: Harrell C of the risks behind the simulation" in report_page


def test_two_cohorts_meet_in_one_order_of_genes(tiny_grid):
    tables = {
        name: pd.read_parquet(tiny_grid / f"results/{name}/genomics/expression.parquet").set_index("case_id")
        for name in ("tiny", "tiny_ivygap", "tiny_meta")
    }
    shared = tables["tiny"].columns.intersection(tables["tiny_ivygap"].columns)
    assert tables["tiny_meta"].columns.equals(shared)
    assert len(shared) < min(tables["tiny"].shape[1], tables["tiny_ivygap"].shape[1])
    assert sorted(tables["tiny_meta"].index) == sorted([*tables["tiny"].index, *tables["tiny_ivygap"].index])
    cases = pd.read_parquet(tiny_grid / "results/tiny_meta/cases.parquet")
    assert set(cases["source"]) == {"tiny", "tiny_ivygap"}


def test_each_split_has_its_own_highly_variable_genes(tiny_grid):
    chosen = pd.read_parquet(tiny_grid / "results/tiny_meta/genomics/selections/hvg30/mccv2.parquet")
    genes = chosen[chosen["selected"]].groupby("split")["gene"].agg(set)
    assert genes[0] != genes[1]
    filters = pd.read_csv(tiny_grid / "results/tiny_meta/genomics/gene_filters.tsv", sep="\t")
    assert {"tumour", "microenvironment", "kinases"} <= set(filters["group"])
    assert "hvg30, mccv2" in filters


def test_report_shows_the_smoothings_and_the_gene_filters(report_page):
    assert "scgpt (simulated checkpoint and cells): mixtures and single cells of held-out donors" in report_page
    assert "Tiny glioma of two cohorts: genes of each group" in report_page
