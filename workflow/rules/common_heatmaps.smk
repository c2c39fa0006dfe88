"""Which models can say where on a slide they look, and what figures of it are drawn from."""

# Keys of a table whose figures lie over slides: the method that a model's class needs, the file of a run that they show.
OVER_SLIDES = {"heatmaps": "tile_scores", "sampling_points": "sampling_points"}


def refuse_unknown_heatmaps():
    """Refuse figures over slides of a model that is not in the table, takes no tiles or has no method for it."""
    wanted = [
        (table, key, model)
        for table, entry in config["tables"].items()
        for key in OVER_SLIDES
        for model in entry.get(key, [])
    ]
    for table, key, model in wanted:
        where = f"tables: {table}: {key}: {model}"
        if model not in {row["model"] for row in own_rows(table) if not imported(row["cohort"])}:
            raise WorkflowError(f"{where}: is not the model of a row that is trained here")
        if "tiles" not in MODELS[model]["inputs"]:
            raise WorkflowError(f"{where}: the model takes no tiles")
        if not offers(class_file(model), MODELS[model]["class"].partition(":")[2], OVER_SLIDES[key]):
            raise WorkflowError(f"{where}: {MODELS[model]['class']} has no method {OVER_SLIDES[key]}")


def heatmaps_shown():
    """The figures over slides of all tables whose models can be run."""
    return [
        f"results/figures/{table}/{key}_{model}.svg"
        for table, entry in config["tables"].items()
        for key in OVER_SLIDES
        for model in entry.get(key, [])
        if runs(row_of(table, model))
    ]


def run_over_slides(wildcards, key):
    """Files of the run that such a figure shows, a table's first split and seed, and the folders of its cohort's slides."""
    row = row_of(wildcards.table, wildcards.model)
    folder = "results/{cohort}/runs/{task}/{protocol}/{model}/split0/seed{seeds[0]}".format(**row)
    return {
        "shown": f"{folder}/{OVER_SLIDES[key]}.parquet",
        "predictions": f"{folder}/predictions.parquet",
        "folders": slide_folders(row["cohort"], MODELS[row["model"]]["inputs"]["tiles"]["features"]),
    }


def classes_of_row(wildcards):
    """Names of the classes of the task of a table's row; none of survival."""
    return class_names(row_of(wildcards.table, wildcards.model)["task"])


refuse_unknown_heatmaps()
