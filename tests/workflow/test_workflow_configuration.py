"""Every configuration that is shipped can be planned; a wrong one is refused before the first job, naming the key."""

import json
import subprocess
import sys

import pytest
import yaml
from workflow_examples import NO_SHARED, ROOT, SHARED, Checkout, tiny_config


def put(*path_and_value):
    """A change to a configuration: set the key at this path to the last argument."""
    *path, last, value = path_and_value

    def change(config):
        for key in path:
            config = config[key]
        config[last] = value

    return change


def regions_without_slides(config):
    """A change that leaves a cohort without slides and the one table that reads its regions."""
    config["cohorts"]["tiny"]["simulated"]["slides_per_case"] = 0
    config["tables"] = {"tiny_regions": config["tables"]["tiny_regions"]}


def scored(on="tiny_cptac", table="tiny_subspaces", row=2, **changes):
    """A change that has the row of a table scored on a cohort, and is otherwise as told."""

    def change(config):
        entry = config["tables"][table]
        entry["rows"][row] |= {"scored_on": on} | changes
        config["tables"] = {table: entry}

    return change


def mixed_scores(config):
    """A model of a published table's z-scores that is scored on TPM."""
    pinned = {"url": "https://example.org/table.zip", "sha256": "0" * 64}
    config["cohorts"]["published"] = {"source": "published_tables", "table": pinned}
    config["tasks"]["survival"]["modalities"] = []
    scored("tiny", "tiny_survival", 1, cohort="published")(config)
    del config["tables"]["tiny_survival"]["kaplan_meier"], config["tables"]["tiny_survival"]["heatmaps"]
    config["tables"]["tiny_survival"]["rows"] = config["tables"]["tiny_survival"]["rows"][1:2]
    config["tables"]["tiny_survival"]["reference_row"] = "SNN"


def released_predictions(config):
    """Two cohorts, of which one holds released predictions; the row is trained on it."""
    models = {"snn": {"model": "snn", "rows": "roi", "rna_subset": False}}
    config["cohorts"]["released"] = {"source": "published_predictions", "file": "released.csv", "models": models}
    scored("tiny_cptac", cohort="released", model="snn")(config)


WHERE = "tables: tiny_subspaces: row 'The student on slides of another cohort': scored_on: "
REFUSED = {
    "cohort to score on that is not defined": (scored("cptac"), WHERE + "cptac: is not an entry of `cohorts`"),
    "cohort to score on that is trained on": (scored("tiny_ivygap"), WHERE + "tiny_ivygap: is trained on; take"),
    "scored on its own cohort": (
        scored("tiny", "tiny_survival", 0),
        "tables: tiny_survival: row 'Clinical': scored_on: tiny: is trained on; take scored_on out",
    ),
    "scored on a meta cohort": (
        scored("tiny_meta", "tiny_survival", 0),
        "row 'Clinical': scored_on: tiny_meta: is a meta cohort; name the one cohort of it that is to be scored",
    ),
    "released predictions scored elsewhere": (
        released_predictions,
        WHERE + "tiny_cptac: released holds released predictions; there is no model to score",
    ),
    "genes of a cohort of slides": (
        scored(model="ks_fusion"),
        WHERE + "tiny_cptac: ks_fusion reads expression, which tiny_cptac does not have",
    ),
    "slides of a cohort of genes": (
        lambda config: [
            config["cohorts"]["tiny_ivygap"]["simulated"].pop("slides_per_case"),
            scored("tiny_ivygap", "tiny_survival", 2)(config),
        ],
        "row 'AttMIL': scored_on: tiny_ivygap: attmil reads resnet50_20x, which tiny_ivygap does not have",
    ),
    "vectors of another run on another cohort": (
        scored(table="tiny_regions", row=1),
        "tiny_cptac: pathomic_fusion_cnn: inputs: images: reads vectors of another run, which are made for its own",
    ),
    "the cohort of a case on another cohort": (
        scored(model="cohort_indicator"),
        WHERE + "tiny_cptac: cohort_indicator: inputs: cohort: tells the source cohort, and nothing is learnt of this",
    ),
    "alterations of a cohort that leaves out rare ones": (
        lambda config: [
            config["cohorts"]["tiny_cptac"]["simulated"].pop("files"),
            scored(table="tiny_survival", row=1)(config),
        ],
        "tiny_cptac: snn_genomic reads alterations, of which tiny_cptac leaves out those that are rare there; give it",
    ),
    "z-scores scored on values": (
        mixed_scores,
        "scored_on: tiny: snn_genomic reads values of genes, which are z-scores in a published table and not in others",
    ),
    "figure of a model that is only scored elsewhere": (
        lambda config: [
            scored("tiny_ivygap", "tiny_survival", 0)(config),
            config["tables"]["tiny_survival"].update(kaplan_meier=["clinical"]),
        ],
        "tables: tiny_survival: kaplan_meier: clinical: is not the model of a row that is trained here",
    ),
    "unknown key at the top": (
        put("tabels", {}),
        "top level: Additional properties are not allowed ('tabels' was unexpected); known keys: atlases, cohorts, ",
    ),
    "unknown key of a simulation": (
        put("cohorts", "tiny", "simulated", "case", 5),
        "cohorts: tiny: simulated: Additional properties are not allowed ('case' was unexpected)",
    ),
    "unknown key of a training": (
        put("models", "snn_genomic", "training", "learning_rate", 0.1),
        "models: snn_genomic: training: Additional properties are not allowed ('learning_rate' was unexpected)",
    ),
    "unknown key of a row": (
        put("tables", "tiny_survival", "rows", 0, "modle", "clinical"),
        "tables: tiny_survival: rows: 0: Additional properties are not allowed ('modle' was unexpected)",
    ),
    "text for a number": (
        put("models", "snn_genomic", "training", "epochs", "three"),
        "models: snn_genomic: training: epochs: 'three' is not of type 'integer'",
    ),
    "unknown source": (
        put("cohorts", "tiny", "source", "tcga"),
        "cohorts: tiny: source: 'tcga' is not one of simulated, published_tables, gdc, ivygap, meta, ",
    ),
    "row with a model that does not exist": (
        put("tables", "tiny_survival", "rows", 1, "model", "snn_genomics"),
        "tables: tiny_survival: row 'SNN': model: 'snn_genomics' is not an entry of `models`",
    ),
    "reference that is no row": (
        put("tables", "tiny_survival", "reference_row", "Concatt"),
        "tables: tiny_survival: reference_row: 'Concatt' is not the label of a row",
    ),
    "entries that extend each other": (
        put("models", {"first": {"extends": "second"}, "second": {"extends": "first"}}),
        "models: first extends second extends first: first is its own ancestor",
    ),
    "entry that extends nothing": (
        put("models", "third", {"extends": "nothing"}),
        "models: third extends nothing: nothing is not an entry of `models`",
    ),
    "class whose file is missing": (
        put("models", "attmil", "class", "my_model:Mine"),
        "models: attmil: class: no file my_model.py beside the configuration",
    ),
    "tile features that are not defined": (
        put("models", "attmil", "inputs", "tiles", "features", "uni_20x"),
        "models: attmil: inputs: tiles: features: 'uni_20x' is not an entry of `slide_features`",
    ),
    "modality that is not defined": (
        put("tasks", "survival", "modalities", ["expression", "uni_20x"]),
        "tasks: survival: modalities: 'uni_20x' is neither expression nor alterations, nor an entry of ",
    ),
    "regions that are not defined": (
        put("models", "t2t_vit", {"inputs": {"regions": {"regions": "sparse"}}}),
        "models: t2t_vit: inputs: regions: regions: 'sparse' is not an entry of `slide_regions`",
    ),
    "crops larger than the regions": (
        put("models", "t2t_vit", {"inputs": {"regions": {"crop_px": 257}}}),
        "models: t2t_vit: inputs: regions: crop_px: 257 is more than the regions' 256 px",
    ),
    "regions and tiles": (
        put("models", "t2t_vit", {"inputs": {"tiles": {"features": "resnet50_20x"}}}),
        "models: t2t_vit: inputs: regions: a row is a slide's tiles or one region, not both; take one of them out",
    ),
    "regions of a cohort without slides": (
        regions_without_slides,
        "tables: tiny_regions: row 'T2T-ViT': its model or its task asks for dense, which tiny does not have",
    ),
    "modulation with an unknown rule": (
        put("models", "path_gptomic", {"training": {"modulation": {"rule": "softmax"}}}),
        "models: path_gptomic: training: modulation: rule: 'softmax' is not one of",
    ),
    "modulation with a key of the other kind": (
        put("models", "path_gptomic", {"training": {"modulation": {"operation": "projection"}}}),
        "models: path_gptomic: training: modulation: operation: is no key of kind balance, which has rule, apply, ",
    ),
    "tuning over a modulation with a key of the other kind": (
        put("tunings", "two", "space", "modulation", [{}, {"kind": "coordination", "rule": "lift"}]),
        "tunings: two: space: modulation: rule: is no key of kind coordination, which has operation, granularity, ",
    ),
    "class to predict among the inputs": (
        put("models", "clinical", {"inputs": {"clinical": {"columns": ["age", "grade"]}}}),
        "row 'Clinical': models: clinical: inputs: clinical: columns: grade is what the task grading predicts; choose",
    ),
    "input that tells the class to predict": (
        put("models", "concat_short", "inputs", {"clinical": {"columns": ["diagnosis"]}}),
        "row 'Concat': models: concat_short: inputs: clinical: columns: diagnosis tells grade, which is what the task ",
    ),
    "figure of a model that is no row": (
        put("tables", "tiny_regions", "hazards", ["snn_genomic"]),
        "tables: tiny_regions: hazards: snn_genomic: is not the model of a row that is trained here",
    ),
    "figure of a modulation that there is not": (
        put("tables", "tiny_regions", "modulation", ["t2t_vit"]),
        "tables: tiny_regions: modulation: t2t_vit: is trained without a modulation (`training: modulation`)",
    ),
    "importance of genes in a model without branches": (
        put("tables", "tiny_survival", "gene_importance", ["snn_genomic"]),
        "tables: tiny_survival: gene_importance: snn_genomic: histofuse.models.snn:SNN has no branches (no method ",
    ),
    "importance of genes in a model without tables": (
        put("tables", "tiny_survival", "gene_importance", ["attmil"]),
        "tables: tiny_survival: gene_importance: attmil: the model reads no table of genes",
    ),
    "sampling points of a model that has none": (
        put("tables", "tiny_survival", "sampling_points", ["attmil"]),
        "tables: tiny_survival: sampling_points: attmil: histofuse.models.attmil:AttMIL has no method sampling_points",
    ),
    "ROC curves of survival": (
        put("tables", "tiny_survival", "roc", ["clinical"]),
        "tables: tiny_survival: roc: clinical: survival is a survival task, not one of classification",
    ),
    "metric of slides' classes for survival": (
        put("tables", "tiny_subspaces", "metrics", ["harrell_c", "slide_macro_auc"]),
        "tables: tiny_subspaces: metrics: slide_macro_auc: not for survival_intervals, which is a survival task",
    ),
    "sensitivity of a row that is none": (
        put("tables", "tiny_grading", "sensitivity", "rows", {"Clinical": 0, "SNN": 1}),
        "tables: tiny_grading: sensitivity: rows: 'SNN' is not the label of a row",
    ),
    "tuning that is not defined": (
        put("tables", "tiny_tuned", "tuning", "three"),
        "tables: tiny_tuned: tuning: 'three' is not an entry of `tunings`",
    ),
    "tuning over a key that training does not have": (
        put("tunings", "two", "space", "learning_rate", [0.1]),
        "tunings: two: space: learning_rate: is neither params.NAME nor one of batch_size, betas, ",
    ),
    "tuning of how a model is judged": (
        put("tunings", "two", "space", "select", ["last", "validation"]),
        "tunings: two: space: select: is neither params.NAME nor one of batch_size, betas, ",
    ),
    "tuning over a value that the key cannot have": (
        put("tunings", "two", "space", "optimiser", ["adam", "lbfgs"]),
        "tunings: two: space: optimiser: 'lbfgs' is not one of",
    ),
    "tuning without a value": (
        put("tunings", "two", "space", "lr", []),
        "tunings: two: space: lr: [] is not one of: a list of values, or log: [least, most]",
    ),
    "tuning of whole numbers on a logarithmic scale": (
        put("tunings", "two", "space", "epochs", {"log": [1, 9]}),
        "tunings: two: space: epochs: log: needs the least and the most of a key that can be any number",
    ),
    "tuning between two numbers of which the first is the larger": (
        put("tunings", "two", "space", "lr", {"log": [0.1, 0.01]}),
        "tunings: two: space: lr: log: needs the least and the most of a key that can be any number",
    ),
    "tuning of an epoch chosen on a part that there is not": (
        put("models", "snn_genomic", "training", "select", "validation"),
        "tables: tiny_tuned: row 'SNN': its model selects its epoch on the validation part, which mccv2 does not have",
    ),
    "name that is kept for tuned models": (
        put("models", "snn@two", {"extends": "snn_genomic"}),
        "models: snn@two: an @ is kept for the names of tuned models; choose another name",
    ),
    "entry with the same name among features and regions": (
        put("slide_regions", "resnet50_20x", {"side_px": 256, "crop_px": 128}),
        "slide_regions: resnet50_20x: is also an entry of `slide_features`; call one otherwise",
    ),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_wrong_configuration_is_refused_before_the_first_job(untouched, mistake):
    change, message = REFUSED[mistake]
    config = tiny_config()
    change(config)

    output = untouched.refused("--configfile", untouched.write_config(config, "wrong.yaml"))

    assert message in output
    assert "Traceback" not in output
    assert not (untouched / "resources").exists(), "a job ran"


@pytest.mark.parametrize(
    "name", sorted(path.name for path in (ROOT / "config").glob("*.yaml") if path.stem != "models")
)
def test_shipped_configuration_can_be_planned(tmp_path, name):
    # Released predictions are read from beside the repository, and a file must be there to be planned with.
    if name == "published_predictions.yaml":
        if not SHARED.exists():
            pytest.skip(NO_SHARED)
        (tmp_path / "shared").symlink_to(SHARED)
    checkout = Checkout(tmp_path / "repository")

    plan = checkout.plan("--configfile", f"config/{name}")

    assert {"table", "report"} <= set(plan.jobs)


KINDS = {
    "gdc": ["clinical", "molecular", "expression", "mutations", "copy_number", "slide"],
    "ivygap": ["ivygap_expression", "ivygap_tumors", "ivygap_samples", "ivygap_sub_blocks", "slide"],
}


def lay_manifest(folder, entry):
    """Write what is known of a cohort whose files were asked for: one batch of each kind, two of slides."""
    kinds = [kind for kind in KINDS[entry["source"]] if kind != "molecular" or "cbioportal_study" in entry]
    lines = [f"{kind}\t{kind}-{batch:03d}" for kind in kinds for batch in range(2 if kind == "slide" else 1)]
    folder.mkdir(parents=True)
    (folder / "manifest.tsv").write_text("\n".join(["kind\tbatch", *lines]) + "\n")
    (folder / "availability.json").write_text(json.dumps({"available": True, "reason": "", "release": None}))


def weights_named(value):
    """All that the entries of a configuration name as `checkpoint`."""
    inner = [weights_named(one) for one in value.values() if isinstance(one, dict)] if isinstance(value, dict) else []
    return {value.get("checkpoint")}.union(*inner) - {None}


def test_all_runs_of_the_papers_are_planned_where_files_and_weights_are_there(tmp_path):
    """A plan stops at a cohort's list of files; here the lists, and all files that users bring, are there already."""
    checkout = Checkout(tmp_path / "repository")
    config = yaml.safe_load((ROOT / "config" / "paper.yaml").read_text())
    for name, entry in config["cohorts"].items():
        if entry["source"] in KINDS:
            lay_manifest(checkout / f"resources/{name}", entry)
    folders = weights_named(config["embeddings"])
    brought = {f"{folder}/{file}" for folder in folders for file in ("args.json", "vocab.json", "best_model.pt")}
    brought |= weights_named(config["models"]) | {atlas["file"] for atlas in config["atlases"].values()}
    for path in map(checkout.folder.joinpath, brought):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    plan = checkout.plan("--configfile", "config/paper.yaml")

    rules = {"fetch", "cases", "expression", "expression_ivygap", "join_cases", "alterations", "embed_cases"}
    rules |= {"encode_slides", "pack_slides", "cut_regions", "encode_regions", "train", "tune", "predict_external"}
    rules |= {"tile_scores", "sampling_points", "gene_importance", "score", "score_external", "table", "report"}
    assert rules <= set(plan.jobs)
    # two batches of each of three cohorts at two magnifications; of kidneys regions alone are read
    assert plan.jobs["encode_slides"] == 2 * 3 * 2
    shown = {row["model"] for table in config["tables"].values() if "tuning" not in table for row in table["rows"]}
    assert shown <= plan.trained
    assert len(plan.trained) > len(shown)


def test_demo_is_the_configuration_by_default(untouched):
    plans = (untouched.plan(), untouched.plan("--configfile", "config/config.yaml"))
    assert sorted(plans[0].messages) == sorted(plans[1].messages)


def test_snakemake_lint_is_clean(untouched):
    assert "Congratulations, your workflow is in a good condition!" in untouched.snakemake("--lint")


def test_rules_are_formatted():
    command = [sys.executable, "-m", "snakefmt", "--check", "Snakefile", "workflow/rules"]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert checked.returncode == 0, checked.stderr
