"""Which files a run, and the scores of a model's runs, are made from."""

from itertools import product
from pathlib import Path


def run_folder(wildcards, model):
    """Where the run of a model lies with the cohort, task, protocol, split and seed of another one; or its tuning."""
    names = dict(wildcards.items())
    names |= {"model": model, "of": f"seed{names['seed']}" if "seed" in names else "tuning"}
    return "results/{cohort}/runs/{task}/{protocol}/{model}/split{split}/{of}".format(**names)


def inputs_of_run(wildcards):
    """Files of a run: a table per block under `inputs`, what the choice of their columns needs, weights to start from."""
    folder, inputs = f"results/{wildcards.cohort}", MODELS[wildcards.model]["inputs"]
    blocks = {name: options for name, options in inputs.items() if is_table(name, options)}
    chosen = data_files(wildcards.cohort, inputs)
    for name, options in inputs.items():
        if "run" in options:
            chosen[name] = f"{run_folder(wildcards, options['run'])}/vectors.parquet"
    if "tuning" in MODELS[wildcards.model] and "seed" in dict(wildcards.items()):
        chosen["tuning"] = f"{Path(run_folder(wildcards, wildcards.model)).parent}/tuning/tuning.json"
    if weights := sorted(named(MODELS[wildcards.model].get("params", {}), "checkpoint")):
        chosen["checkpoints"] = weights
    if stages := MODELS[wildcards.model].get("starts_from"):
        chosen["starts"] = [f"{run_folder(wildcards, stage['model'])}/weights.safetensors" for stage in stages]
    if any("group" in options for options in blocks.values()):
        chosen["groups"] = f"{folder}/genomics/gene_groups.tsv"
    if any(options.get("per_source") for options in blocks.values()):
        chosen["cases"] = f"{folder}/cases.parquet"
    for selection in selections_in(inputs):
        chosen[f"selection_{selection}"] = f"{folder}/genomics/selections/{selection}/{wildcards.protocol}.parquet"
    lists = [options["columns"] for options in blocks.values() if isinstance(options.get("columns"), str)]
    return chosen | ({"lists": sorted(set(lists))} if lists else {})


def data_files(cohort, inputs):
    """The tables, tiles and regions of a cohort that inputs name, under the names by which a run is given them."""
    folder, chosen = f"results/{cohort}", {}
    for name, options in inputs.items():
        if is_table(name, options):
            chosen[name] = f"{folder}/{table_of(name, options)}"
        if is_bag(name):
            slides = f"{folder}/slides/{options['features']}"
            files = {"": "tiles.f16", "_index": "index.parquet", "_coords": "coords.i32"}
            chosen |= {f"{name}{part}": f"{slides}/{file}" for part, file in files.items()}
    if "regions" in inputs:
        regions = f"{folder}/regions/{inputs['regions']['regions']}"
        chosen |= {"regions": f"{regions}/regions.u8", "region_index": f"{regions}/index.parquet"}
    return chosen


def is_bag(block):
    """Whether an input of this name is a bag of tile features, as in histofuse.bags; the others are tables or pixels."""
    return block == "tiles" or block.startswith("tiles_")


def is_table(block, options):
    """Whether an input is columns of a table, and not tiles, pixels or the vectors of another run."""
    return not is_bag(block) and block != "regions" and "run" not in options


def images_of(model):
    """The entries of slide_features and slide_regions that a model, and those whose runs it needs, read."""
    inputs = [MODELS[name]["inputs"].items() for name in lineage(model)]
    named = {(name, options.get("features" if is_bag(name) else "regions")) for of in inputs for name, options in of}
    return {entry for name, entry in named if entry and (is_bag(name) or name == "regions")}


def table_of(block, options):
    """Where a tabular block lies under its cohort's folder."""
    if block == "scgpt":
        return f"genomics/embeddings/{options['embedding']}/{options.get('smoothing') or 'raw'}.parquet"
    table = options.get("from", block)
    return "cases.parquet" if table in ("clinical", "source") else f"genomics/{table}.parquet"


def selections_in(inputs):
    """The gene selections that a model's inputs name."""
    return sorted({options["selection"] for options in inputs.values() if "selection" in options})


def counts_for(cohort, selection):
    """The matrix with the counts, for a selection whose ranking needs them; a published table has none."""
    counts = config["gene_selections"][selection].get("flavour") == "seurat_v3"
    return f"results/{cohort}/genomics/expression.h5ad" if counts and layout(cohort) != "published_tables" else []


def panel_for(selection):
    """The panel of an embedding, for a selection that takes its genes."""
    embedding = config["gene_selections"][selection].get("panel")
    return f"results/embeddings/{embedding}/panel.tsv" if embedding else []


def selections_of_cohort(cohort):
    """The gene selections that the rows of any table use on a cohort, for each protocol."""
    rows = [row for table in config["tables"] for row in rows_of(table) if row["cohort"] == cohort and runs(row)]
    pattern = "results/{cohort}/genomics/selections/{selection}/{protocol}.parquet"
    return sorted(
        {
            pattern.format(selection=name, **row)
            for row in rows
            for model in lineage(row["model"])
            for name in selections_in(MODELS[model]["inputs"])
        }
    )


def chooses_genes(cohort):
    """Whether a row of any table reads genes of a group or a selection on a cohort."""
    rows = [row for table in config["tables"] for row in rows_of(table) if row["cohort"] == cohort and runs(row)]
    models = set().union(*(lineage(row["model"]) for row in rows))
    blocks = [options for model in models for options in MODELS[model]["inputs"].values()]
    return any({"group", "selection"} & set(options) for options in blocks)


def modalities_of(cohort, task):
    """The modalities a task asks of every case, each with the file that says which cases have it."""
    folders = {name: f"slides/{name}/index" for name in config.get("slide_features", {})}
    folders |= {name: f"regions/{name}/index" for name in config.get("slide_regions", {})}
    folders |= {name: f"genomics/{name}" for name in ("expression", "alterations")}
    return {name: f"results/{cohort}/{folders[name]}.parquet" for name in config["tasks"][task].get("modalities", [])}


def slides_counted(cohort, modalities):
    """The index of a cohort's slides, each of which counts in metrics of slides: the first of {modality: its file}."""
    if imported(cohort):
        return []
    images = {**config.get("slide_features", {}), **config.get("slide_regions", {})}
    return [file for name, file in modalities.items() if name in images][:1]


def in_words(modality):
    """What a modality is called where a case is said to lack it."""
    kinds = {"slides": "slide_features", "regions": "slide_regions"}
    kind = next((kind for kind, section in kinds.items() if modality in config.get(section, {})), None)
    return f"{kind} ({modality})" if kind else modality


def seeds_of(wildcards):
    """All seeds that any table asks of a model on a cohort, task and protocol, to be scored on its own test parts or
    on the cohort `external` of the wildcards."""
    keys, names = ("cohort", "task", "protocol", "model"), dict(wildcards.items())
    wanted = [
        row["seeds"]
        for table in config["tables"]
        for row in rows_of(table)
        if all(row[k] == wildcards[k] for k in keys) and row.get("scored_on") == names.get("external")
    ]
    return sorted({seed for seeds in wanted for seed in seeds})


def predictions_to_score(wildcards):
    """Predictions of every split and seed of a model, or the released ones."""
    folder = f"{wildcards.task}/{wildcards.protocol}/{wildcards.model}"
    if imported(wildcards.cohort):
        return [f"results/{wildcards.cohort}/released/{folder}.parquet"]
    splits = range(config["protocols"][wildcards.protocol]["n_splits"])
    return [
        f"results/{wildcards.cohort}/runs/{folder}/split{split}/seed{seed}/predictions.parquet"
        for split, seed in product(splits, seeds_of(wildcards))
    ]


def slides_to_score(wildcards):
    """Predictions per slide of the same runs; released predictions are of cases."""
    if imported(wildcards.cohort):
        return []
    return [str(Path(path).with_name("slides.parquet")) for path in predictions_to_score(wildcards)]
