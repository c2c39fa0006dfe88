"""Which figures there are, what they are drawn from and what their captions say."""

# Figures of single rows, by the key of a table that lists their models.
OF_ROWS = ("kaplan_meier", "hazards", "modulation", "gene_importance")
CAPTIONS = {
    "intervals": "estimates with the papers' t-interval (thick) and the interval corrected for overlapping splits "
    "(thin), or the bootstrap interval over the test cases of a single split or the cases of another cohort (dashed). "
    "Dotted: the reference row",
    "kaplan_meier": "test cases above and below the median of the training risks, each case once. The log-rank p only "
    "describes, as models of different splits share cases",
    "hazards": "predicted risks (with Cox's loss, log hazards) of the test parts of all splits, of the first seed. They "
    "have no common zero or scale: each is set against the median of the training risks of its split, in their "
    "standard deviations. Splits overlap, so that a patient may appear several times",
    "modulation": "what slows a branch down in each step (k) and why (ρ), and what each branch's part of the output is "
    "worth alone. Lines: means over the runs of all splits and seeds (of ρ, medians); bands: the middle 80 % of steps, "
    "or of runs where steps are not logged. Points: test parts, with the interval corrected for overlapping splits",
    "coordination": "how often and how far the branches' gradients conflict, which of them is changed, and how far each "
    "branch is trusted. Lines: means over the runs of all splits and seeds; bands: the middle 80 % of runs",
    "roc": "each class against the rest, mean over the test parts of all splits with a band of one standard deviation. "
    "AUC: mean over splits, with the interval corrected for their overlap, or with one split of a bootstrap over its "
    "test cases",
    "sensitivity": "estimates with the papers' t-interval (thick) and the interval corrected for overlapping splits "
    "(thin), or with a single split the bootstrap interval over its test cases; values are equally spaced. Whether rows differ is tested in the table, on differences within splits: "
    "intervals that overlap do not say that they are equal",
    "gene_importance": "what it does when an input of the test cases is that of other cases (permutation importance). "
    "Dotted: how far apart the outputs of two cases lie, of a normal distribution. Small dots: runs, each the mean over "
    "its permutations; large ones: means over splits, with the interval corrected for their overlap. Below, single "
    "genes: each run permutes those that the branch's gradient says most of; runs that do not read a gene or pass it "
    "over count as 0 in its mean (n/N: in how many runs it was permuted)",
    "heatmaps": "tile scores over four test slides",
    "sampling_points": "where attention reads four test slides. A point is drawn in the tile at the nearest place of the "
    "map that the model makes of a slide's tiles; neighbours there are not everywhere neighbours in tissue",
    "interpolation": "distance to the second of two cell types on a walk through mixtures of their cells. Dotted: where "
    "mixtures lie between their parts",
}


def refuse_unknown_figures():
    """Refuse figures of what is no row, was not trained here, or has nothing to draw."""
    for table, entry in config["tables"].items():
        for key in (*OF_ROWS, "roc"):
            for model in entry.get(key, []):
                refuse_undrawable(table, key, model)
        tasks = {row_of(table, model)["task"] for model in entry.get("roc", [])}
        if len(tasks) > 1:
            raise WorkflowError(
                f"tables: {table}: roc: models of one task are needed, not of {', '.join(sorted(tasks))}"
            )
        labels = {row["label"] for row in own_rows(table)}
        for label in entry.get("sensitivity", {}).get("rows", {}):
            if label not in labels:
                raise WorkflowError(f"tables: {table}: sensitivity: rows: {label!r} is not the label of a row")


def refuse_undrawable(table, key, model):
    """Refuse a model under a key of a table whose figure cannot be drawn of it."""
    where = f"tables: {table}: {key}: {model}"
    if model not in {row["model"] for row in own_rows(table) if not imported(row["cohort"])}:
        raise WorkflowError(f"{where}: is not the model of a row that is trained here")
    row = row_of(table, model)
    needed = {"roc": "classification", "modulation": None, "gene_importance": None}.get(key, "survival")
    kind = config["tasks"][row["task"]]["kind"]
    if needed not in (None, kind):
        raise WorkflowError(f"{where}: {row['task']} is a {kind} task, not one of {needed}")
    if key == "modulation" and modulation_of(model) is None:
        raise WorkflowError(f"{where}: is trained without a modulation (`training: modulation`)")
    if key == "gene_importance":
        refuse_without_branches(where, model)


def refuse_without_branches(where, model):
    """Refuse the importance of genes for a model that reads no table or whose output is no sum of branches."""
    if not any(is_table(name, options) for name, options in MODELS[model]["inputs"].items()):
        raise WorkflowError(f"{where}: the model reads no table of genes")
    if not offers(class_file(model), MODELS[model]["class"].partition(":")[2], "branches"):
        raise WorkflowError(f"{where}: {MODELS[model]['class']} has no branches (no method branches)")


def modulation_of(model):
    """The modulation of a model's training, None without one."""
    return MODELS[model].get("training", {}).get("modulation")


def row_of(table, model):
    """The row of a table that shows a model on the test parts of its own cohort."""
    return next(row for row in own_rows(table) if row["model"] == model)


def title_of_row(table, model):
    """Heading of a figure about one row of a table."""
    note = " (simulated)" if simulated_table(table) else ""
    return f"{row_of(table, model)['label']}: {config['tables'][table]['title']}{note}"


def title_of_table(table):
    """Heading of a figure about a table."""
    return config["tables"][table]["title"] + (" (simulated)" if simulated_table(table) else "")


def predictions_of_row(table, model):
    """Predictions of all splits of a table's row, of its first seed (a case counts once per split)."""
    row = row_of(table, model)
    pattern = "results/{cohort}/runs/{task}/{protocol}/{model}/split{split}/seed{seed}/predictions.parquet"
    splits = range(config["protocols"][row["protocol"]]["n_splits"])
    return [pattern.format(**row, split=split, seed=row["seeds"][0]) for split in splits]


def runs_of_row(table, model, file):
    """The predictions or histories of all splits and seeds of a table's row."""
    row = row_of(table, model)
    pattern = "results/{cohort}/runs/{task}/{protocol}/{model}/split{split}/seed{seed}/{file}.parquet"
    splits = range(config["protocols"][row["protocol"]]["n_splits"])
    return [pattern.format(**row, split=split, seed=seed, file=file) for split, seed in product(splits, row["seeds"])]


def drawn_in_roc(table):
    """The models under `roc` that can be run."""
    return [model for model in config["tables"][table].get("roc", []) if runs(row_of(table, model))]


def predictions_of_roc(table):
    """{predictions of a run: label of its row} of the models under `roc`."""
    return {
        path: row_of(table, model)["label"]
        for model in drawn_in_roc(table)
        for path in runs_of_row(table, model, "predictions")
    }


def class_names(task):
    """Names of a task's classes; those that begin with a number with the task's label, as in "Grade 2"."""
    entry = config["tasks"][task]
    return [f"{entry.get('label', task)} {name}" if name[0].isdigit() else name for name in entry.get("classes", {})]


def classes_of_roc(table):
    """Names of the classes of the task under `roc`."""
    return class_names(row_of(table, config["tables"][table]["roc"][0])["task"])


def figures_shown():
    """Every table drawn as intervals, the figures that it asks for of rows that can be run, and walks through the
    space of every embedding that is smoothed."""
    shown = [f"results/figures/{table}/intervals.svg" for table in config["tables"]]
    for table, entry in config["tables"].items():
        names = [f"{key}_{model}" for key in OF_ROWS for model in entry.get(key, []) if runs(row_of(table, model))]
        names += ["roc"] if drawn_in_roc(table) else []
        names += ["sensitivity"] if "sensitivity" in entry else []
        shown += [f"results/figures/{table}/{name}.svg" for name in names]
    smoothed = [name for name in embeddings_shown() if smoothings_of(name)]
    return shown + [f"results/figures/embeddings/{name}/interpolation.svg" for name in smoothed]


def caption(path):
    """What a figure shows: of which table, row or embedding, and how it is to be read."""
    table, name = Path(path).parts[-2], Path(path).stem
    if Path(path).parts[2] == "embeddings":
        return f"{title_of_embedding(table)}: {CAPTIONS[name]}"
    kinds = (*OF_ROWS, *OVER_SLIDES, "intervals", "roc", "sensitivity")
    kind = next(kind for kind in kinds if name.startswith(kind))
    model = name.removeprefix(kind).removeprefix("_")
    title = title_of_row(table, model) if model else title_of_table(table)
    if kind == "modulation" and modulation_of(model).get("kind") == "coordination":
        kind = "coordination"
    return f"{title}: {CAPTIONS[kind]}"


refuse_unknown_figures()
