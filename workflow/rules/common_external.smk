"""What is scored on another cohort than it was trained on, from which files, and what of it makes no sense."""

import re


def own_rows(table):
    """The rows of a table that are scored on the test parts of the cohort they are trained on."""
    return [row for row in rows_of(table) if "scored_on" not in row]


def rows_scored_on(cohort, task):
    """The rows of all tables that are scored for a task on a cohort they are not trained on, and can be run."""
    rows = [row for table in config["tables"] for row in rows_of(table)]
    return [row for row in rows if (row.get("scored_on"), row["task"]) == (cohort, task) and runs(row)]


def scored_elsewhere():
    """The (cohort, task) pairs that rows of any table are scored on without being trained on them."""
    rows = [row for table in config["tables"] for row in rows_of(table) if "scored_on" in row]
    return sorted({(row["scored_on"], row["task"]) for row in rows if runs(row)})


def cohorts_of(row):
    """The cohorts that a row of a table needs: the one trained on and, if another, the one scored on."""
    return [row["cohort"], *([row["scored_on"]] if "scored_on" in row else [])]


def read_at_scoring(model):
    """The inputs that a model needs to predict: all but those for training only."""
    return {name: options for name, options in MODELS[model]["inputs"].items() if not options.get("training_only")}


def modalities_scored(cohort, task):
    """What cases of a cohort must have to be scored for a task, each with the file that says which cases have it.

    All that any model reads that is scored there: rows that are compared must not differ in their cases. What the task
    asks of training cases, and what models are given in training only, is not asked for.
    """
    found = {}
    for model in sorted({row["model"] for row in rows_scored_on(cohort, task)}):
        for name, options in read_at_scoring(model).items():
            if is_bag(name):
                found[options["features"]] = f"slides/{options['features']}/index.parquet"
            elif name == "regions":
                found[options["regions"]] = f"regions/{options['regions']}/index.parquet"
            elif table_of(name, options) != "cases.parquet":
                found[options.get("embedding", options.get("from", name))] = table_of(name, options)
    return {name: f"results/{cohort}/{file}" for name, file in sorted(found.items())}


def files_to_score(wildcards):
    """Files of a run but for those read in training only, and of the other cohort the same as `external_…`."""
    inputs = read_at_scoring(wildcards.model)
    passed_over = {"starts", "tuning", *(MODELS[wildcards.model]["inputs"].keys() - inputs.keys())}
    own = {name: file for name, file in inputs_of_run(wildcards).items() if name not in passed_over}
    return own | {f"external_{name}": file for name, file in data_files(wildcards.external, inputs).items()}


def predictions_on_external(wildcards, file):
    """Predictions of another cohort's cases, per case or per slide, by the models of every split and seed."""
    folder = "results/{cohort}/scored_on/{external}/{task}/{protocol}/{model}".format(**dict(wildcards.items()))
    splits = range(config["protocols"][wildcards.protocol]["n_splits"])
    return [f"{folder}/split{split}/seed{seed}/{file}.parquet" for split, seed in product(splits, seeds_of(wildcards))]


def metrics_of_row(row):
    """The metrics of a row's model on the cohort that the row is scored on."""
    folder = "metrics_on/{scored_on}" if "scored_on" in row else "metrics"
    return f"results/{{cohort}}/{folder}/{{task}}/{{protocol}}/{{model}}.parquet".format(**row)


def refuse_unscorable(table, row):
    """Refuse a row whose model cannot be scored on the cohort that it names."""
    external = row["scored_on"]
    where = f"tables: {table}: row {row['label']!r}: scored_on: {external}"
    if external not in config["cohorts"]:
        raise WorkflowError(f"{where}: is not an entry of `cohorts`")
    if imported(row["cohort"]):
        raise WorkflowError(f"{where}: {row['cohort']} holds released predictions; there is no model to score")
    if imported(external):
        raise WorkflowError(f"{where}: holds released predictions; there are no cases to score")
    if layout(external) == "meta":
        raise WorkflowError(f"{where}: is a meta cohort; name the one cohort of it that is to be scored")
    if external in members(row["cohort"]) or external == row["cohort"]:
        raise WorkflowError(f"{where}: is trained on; take scored_on out, or name a cohort that no model has seen")
    for model in [row["model"]] if complete(row["model"]) else []:
        refuse_unscorable_model(where, model, row["cohort"], external)


def refuse_unscorable_model(where, model, cohort, external):
    """Refuse a model that has no meaning on another cohort, or reads what that one does not have."""
    inputs = read_at_scoring(model)
    for name, options in inputs.items():
        reasons = {
            "run": "reads vectors of another run, which are made for its own cohort only",
            "shuffled": "is a control that is shuffled within the parts of its own splits",
        }
        found = [reason for key, reason in reasons.items() if options.get(key)]
        found += (
            ["tells the source cohort, and nothing is learnt of this one"] if options.get("from") == "source" else []
        )
        if found:
            raise WorkflowError(f"{where}: {model}: inputs: {name}: {found[0]}")
    name = MODELS[model]["class"]
    methods = {method: offers(class_file(model), name.partition(":")[2], method) for method in ("fit", "restore")}
    if methods["fit"] and not methods["restore"]:
        raise WorkflowError(f"{where}: {model}: {name} has no method restore, by which weights predict again")
    tables = {"expression" if name == "scgpt" else options.get("from", name) for name, options in inputs.items()}
    lacking = tables & ({"expression", "alterations"} - tables_had(external))
    if not has_slides(external):
        made_here = re.compile(features_made_by("slides", "regions"))
        features = {options["features"] for name, options in inputs.items() if is_bag(name)}
        lacking |= {name for name in features if made_here.fullmatch(name)}
        lacking |= {options["regions"] for name, options in inputs.items() if name == "regions"}
    if lacking:
        raise WorkflowError(f"{where}: {model} reads {' and '.join(sorted(lacking))}, which {external} does not have")
    scores = [layout(name) == "published_tables" for name in (cohort, external)]
    if scores[0] != scores[1] and tables & {"expression", "alterations"}:
        raise WorkflowError(
            f"{where}: {model} reads values of genes, which are z-scores in a published table and not in others"
        )
    kept = config["cohorts"][external].get("genomics", {}).get("min_frequency", 0.05)
    if "alterations" in tables and layout(external) == "gdc" and kept > 0:
        raise WorkflowError(
            f"{where}: {model} reads alterations, of which {external} leaves out those that are rare there; give it "
            "`genomics: {min_frequency: 0}`"
        )
