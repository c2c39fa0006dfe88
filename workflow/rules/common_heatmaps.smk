"""Which models can say where on a slide they look, and what their heatmaps are drawn from."""


def refuse_unknown_heatmaps():
    """Refuse heatmaps of a model that is not in the table, takes no tiles or has no tile scores."""
    for table, entry in config["tables"].items():
        for model in entry.get("heatmaps", []):
            where = f"tables: {table}: heatmaps: {model}"
            if model not in {row["model"] for row in own_rows(table) if not imported(row["cohort"])}:
                raise WorkflowError(f"{where}: is not the model of a row that is trained here")
            if "tiles" not in MODELS[model]["inputs"]:
                raise WorkflowError(f"{where}: the model takes no tiles")
            if not offers(class_file(model), MODELS[model]["class"].partition(":")[2], "tile_scores"):
                raise WorkflowError(f"{where}: {MODELS[model]['class']} has no method tile_scores")


def heatmaps_shown():
    """The heatmaps of all tables whose models can be run."""
    return [
        f"results/figures/{table}/heatmaps_{model}.svg"
        for table, entry in config["tables"].items()
        for model in entry.get("heatmaps", [])
        if runs(row_of(table, model))
    ]


def run_of_heatmaps(wildcards):
    """Files of the run that heatmaps show, a table's first split and seed, and the folders of its cohort's slides."""
    row = row_of(wildcards.table, wildcards.model)
    folder = "results/{cohort}/runs/{task}/{protocol}/{model}/split0/seed{seeds[0]}".format(**row)
    return {
        "scores": f"{folder}/tile_scores.parquet",
        "predictions": f"{folder}/predictions.parquet",
        "folders": slide_folders(row["cohort"], MODELS[row["model"]]["inputs"]["tiles"]["features"]),
    }


refuse_unknown_heatmaps()
