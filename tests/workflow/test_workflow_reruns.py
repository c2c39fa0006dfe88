"""The tiny grid once it was run: nothing is left to do, and a change repeats what depends on it and no more."""

import shutil

import pandas as pd
import pytest
from workflow_examples import tiny_config

REPORT = {"report": 1}  # it tells the digest of the configuration
TABLES_AND_REPORT = {"metrics", "table", "figure_intervals", "report"}


def test_second_run_has_nothing_to_do(tiny_grid):
    assert "Nothing to be done" in tiny_grid.snakemake("--configfile", "tiny.yaml")


def test_changed_model_entry_repeats_only_its_runs_and_what_depends_on_them(tiny_grid):
    config = tiny_config()
    config["models"]["snn_genomic"]["training"]["lr"] = 0.004

    plan = tiny_grid.plan("--configfile", tiny_grid.write_config(config, "other_lr.yaml"))

    # Pathomic Fusion starts from the SNN of its own cases; the grading table has neither
    assert plan.trained == {"snn_genomic", "snn_genomic@two", "snn_genomic_bounded", "pathomic_fusion_cnn"}
    tuning = {"tune": 2, "tunings": 1}
    shown = {"score": 3, "table": 3, "figure_intervals": 3, "metrics": 1, "report": 1}
    assert plan.jobs == {"train": 8} | tuning | shown


def test_changed_tuning_repeats_only_what_is_tuned_by_it(tiny_grid):
    config = tiny_config()
    config["tunings"]["two"]["space"]["lr"] = [0.003]
    plan = tiny_grid.plan("--configfile", tiny_grid.write_config(config, "other_space.yaml"))
    assert plan.trained == {"snn_genomic@two"}
    assert plan.jobs["tune"] == 2
    assert "inner_splits" not in plan.jobs


def test_a_tuned_row_needs_the_tuned_runs_of_the_models_that_it_starts_from(tiny_grid):
    config = tiny_config()
    config["tables"] = {"tiny_regions": config["tables"]["tiny_regions"] | {"tuning": "two"}}
    plan = tiny_grid.plan("--configfile", tiny_grid.write_config(config, "tuned_stages.yaml"))
    tuned = {"t2t_vit@two", "path_gptomic@two", "pathomic_fusion_cnn@two", "vgg19@two", "snn_genomic_bounded@two"}
    assert plan.trained == tuned
    assert plan.jobs["tune"] == plan.jobs["train"] == 2 * len(tuned)
    assert plan.jobs["vectors_of_tuning"] == plan.jobs["vectors"] == 2


def test_changed_modulation_repeats_only_its_runs(tiny_grid):
    config = tiny_config()
    config["models"]["path_gptomic"] = {"training": {"modulation": {"rule": "literal_sum"}}}

    plan = tiny_grid.plan("--configfile", tiny_grid.write_config(config, "other_rule.yaml"))

    assert plan.trained == {"path_gptomic"}
    figures = {"figure_intervals": 1, "figure_modulation": 1, "figure_hazards": 1}
    assert plan.jobs == {"train": 2, "score": 1, "table": 1, "metrics": 1, "report": 1} | figures


def test_rows_without_the_weights_they_start_from_are_not_run(tiny_grid):
    config = tiny_config()
    config["models"]["t2t_vit"]["params"]["image"]["encoder"]["checkpoint"] = "resources/pretrained/absent.pth.tar"
    # The entry shares its parameters with path_gptomic_frame: both start from the file.
    file = tiny_grid.write_config(config, "no_weights.yaml")

    assert tiny_grid.plan("--configfile", file).trained == set()
    tiny_grid.snakemake("results/tables/tiny_regions.csv", "--configfile", file)
    status = pd.read_csv(tiny_grid / "results/tables/tiny_regions.csv").set_index("row")["status"]
    for row in ("T2T-ViT", "Path-GPTOmic"):
        assert status[row] == "not run: there is no resources/pretrained/absent.pth.tar (see config/pretrained.tsv)"
    assert status["Pathomic Fusion"] == "run"
    tiny_grid.snakemake("--configfile", "tiny.yaml")


def test_changed_weights_repeat_only_the_runs_that_start_from_them(tiny_grid):
    config = tiny_config()
    weights = "resources/weights.pth"
    (tiny_grid / weights).write_bytes(b"whatever a planned run has not read yet")
    config["models"]["vgg19"]["params"]["image"]["encoder"]["checkpoint"] = weights

    plan = tiny_grid.plan("--configfile", tiny_grid.write_config(config, "weights.yaml"))

    assert plan.trained == {"vgg19", "pathomic_fusion_cnn"}
    assert plan.jobs["vectors"] == 2


def test_changed_smoothing_repeats_only_what_is_smoothed_by_it(tiny_grid):
    config = tiny_config()
    config["smoothings"] = {"embedding_mixup": {"lr": 0.002}}

    plan = tiny_grid.plan("--configfile", tiny_grid.write_config(config, "other_smoothing.yaml"))

    assert plan.trained == {"snn_scgpt_embedding_mixup"}
    assert plan.jobs.pop("train_smoothing") == plan.jobs.pop("smooth_cases") == 1
    assert {"embed_cases", "embed_bank", "gene_panel"}.isdisjoint(plan.jobs)
    assert {"smoothing_scores", "interpolate", "figure_interpolation"} <= set(plan.jobs)


def test_other_pairs_of_cell_types_change_the_figure_alone(tiny_grid):
    config = tiny_config()
    config["embeddings"]["scgpt"]["pairs"] = [["neuron", "macrophage"]]

    plan = tiny_grid.plan("--configfile", tiny_grid.write_config(config, "other_pairs.yaml"))

    assert plan.jobs == {"interpolate": 1, "figure_interpolation": 1, "report": 1}


def test_rows_without_their_checkpoint_are_not_run(tiny_grid):
    config = tiny_config()
    config["embeddings"]["scgpt"]["checkpoint"] = "resources/scgpt/absent"

    plan = tiny_grid.plan("--configfile", tiny_grid.write_config(config, "no_checkpoint.yaml"))

    # two tables have such rows; the z-score row has a checkpoint of its own
    assert plan.jobs == {"table": 2, "figure_intervals": 2, "metrics": 1, "report": 1}


@pytest.mark.parametrize(
    ("section", "name", "change"),
    [
        ("models", "snn_genomic", {"mem_mb": 9000, "runtime": 500}),
        ("slide_features", "resnet50_20x", {"max_excluded": 0.6, "threads": 2}),
        ("slide_regions", "dense", {"max_excluded": 0.6}),
    ],
)
def test_what_jobs_may_take_and_how_many_slides_may_fail_repeats_the_report_alone(tiny_grid, section, name, change):
    config = tiny_config()
    config[section][name] |= change
    assert tiny_grid.plan("--configfile", tiny_grid.write_config(config, "other_limits.yaml")).jobs == REPORT


@pytest.mark.parametrize(("section", "name"), [("tasks", "survival"), ("cohorts", "tiny")])
def test_another_name_for_readers_trains_nothing_again(tiny_grid, section, name):
    config = tiny_config()
    config[section][name]["label"] = "Called otherwise"
    plan = tiny_grid.plan("--configfile", tiny_grid.write_config(config, "other_label.yaml"))
    assert plan.trained == set()
    assert {"manifest", "cases", "population", "encode_slides", "tune", "score"}.isdisjoint(plan.jobs)


def test_changed_stain_target_encodes_the_slides_again(tiny_grid):
    config = tiny_config()
    stain = config["slide_features"]["resnet50_20x"]["stain"]
    shutil.copy(tiny_grid / "results/tiny/slides/resnet50_20x/contact_sheet.png", tiny_grid / "target.png")
    stain["target"] = "target.png"
    plan = tiny_grid.plan("--configfile", tiny_grid.write_config(config, "target.yaml"))
    assert plan.jobs["encode_slides"] >= 1


def test_another_rule_for_a_diagnosis_makes_the_case_table_again(tiny_grid):
    config = tiny_config()
    config["cohorts"]["tiny"]["cdkn2a_deletion"] = "any"
    plan = tiny_grid.plan("--configfile", tiny_grid.write_config(config, "any_deletion.yaml"))
    assert plan.jobs["cases"] == 1
    assert "encode_slides" not in plan.jobs


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"heatmaps": ["snn_genomic"]}, "heatmaps: snn_genomic: the model takes no tiles"),
        ({"heatmaps": ["concat"]}, "heatmaps: concat: is not the model of a row that is trained here"),
    ],
)
def test_heatmaps_that_cannot_be_drawn_are_refused(tiny_grid, change, refusal):
    config = tiny_config()
    config["tables"]["tiny_survival"] |= change
    assert refusal in tiny_grid.refused("--dry-run", "--configfile", tiny_grid.write_config(config, "heatmaps.yaml"))


def test_features_made_elsewhere_take_the_place_of_ours(tiny_grid, tmp_path):
    """A folder in TRIDENT's layout, one slide short: no slide is fetched or encoded for it."""
    given = tiny_grid / "given"
    given.mkdir()
    slides = pd.read_parquet(tiny_grid / "results/tiny/slides/resnet50_20x/slides.parquet")
    used = slides.loc[slides["status"] == "used", "slide_id"].tolist()
    for slide in used[1:]:
        (found,) = (tiny_grid / "results/tiny/slides/resnet50_20x").glob(f"slide-*/{slide}.h5")
        shutil.copy(found, given)
    config = tiny_config()
    config["slide_features"]["elsewhere"] = {"from": "given"}
    config["models"]["attmil_elsewhere"] = {"extends": "attmil", "inputs": {"tiles": {"features": "elsewhere"}}}
    config["tasks"]["survival_elsewhere"] = {"kind": "survival", "modalities": ["elsewhere"]}
    row = {"label": "AttMIL", "model": "attmil_elsewhere"}
    config["tables"] = {
        "elsewhere": config["tables"]["tiny_survival"]
        | {"rows": [row], "task": "survival_elsewhere", "reference_row": "AttMIL", "kaplan_meier": [], "heatmaps": []}
    }
    file = tiny_grid.write_config(config, "elsewhere.yaml")
    plan = tiny_grid.plan("--configfile", file)
    assert plan.jobs["drop_in_features"] == 1
    assert {"encode_slides", "fetch"}.isdisjoint(plan.jobs)
    tiny_grid.snakemake("results/tables/elsewhere.csv", "--configfile", file)
    ours = pd.read_parquet(tiny_grid / "results/tiny/slides/elsewhere/slides.parquet").set_index("slide_id")
    assert ours.loc[used[0], "status"] == "excluded"
    assert "no features in given" in ours.loc[used[0], "reason"]
    assert (ours.loc[used[1:], "status"] == "used").all()
    assert pd.read_csv(tiny_grid / "results/tables/elsewhere.csv")["estimate"].between(0, 1).all()


@pytest.mark.parametrize("file", ["paper/report.py", "training/loop.py"])
@pytest.mark.parametrize(("old", "new"), [("\nimport ", "\n# why this is so\nimport "), ('"""', '"""Said otherwise: ')])
def test_comment_or_docstring_in_the_code_repeats_nothing(tiny_grid, file, old, new):
    with tiny_grid.edited(f"workflow/scripts/histofuse/{file}", old, new):
        assert tiny_grid.plan("--configfile", "tiny.yaml").jobs == {}


def test_changed_report_code_repeats_only_the_report(tiny_grid):
    with tiny_grid.edited("workflow/scripts/histofuse/paper/report.py", "Tumour factor alone", "Tumour alone"):
        assert tiny_grid.plan("--configfile", "tiny.yaml").jobs == {"report": 1}


def test_changed_model_code_repeats_only_the_models_that_use_it(tiny_grid):
    with tiny_grid.edited("workflow/scripts/histofuse/models/attmil.py", "hidden: int = 128", "hidden: int = 64"):
        plan = tiny_grid.plan("--configfile", "tiny.yaml")

    assert plan.trained == {"attmil", "attmil_regions"}
    assert set(plan.jobs) == {"train", "score", "tile_scores", "figure_heatmaps"} | TABLES_AND_REPORT


def test_changed_code_of_a_part_repeats_only_the_models_that_name_it(tiny_grid):
    with tiny_grid.edited("workflow/scripts/histofuse/models/vgg.py", "width = hidden[-1]", "width = hidden[-1] + 0"):
        plan = tiny_grid.plan("--configfile", "tiny.yaml")

    assert plan.trained == {"vgg19", "pathomic_fusion_cnn"}
