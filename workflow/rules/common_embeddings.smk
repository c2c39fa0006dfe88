"""What an embedding is made of, and which embeddings and smoothings the tables ask for."""

CHECKPOINT_FILES = {"args": "args.json", "vocabulary": "vocab.json", "model": "best_model.pt"}
BANKS = {"cells": "mixed", "none": "single", "embeddings": "single"}  # what a smoothing is trained on, by its `mix`


def checkpoint_of(wildcards):
    """The three files of an scGPT folder."""
    folder = config["embeddings"][wildcards.embedding]["checkpoint"]
    folder = f"resources/scgpt/{wildcards.embedding}" if folder == "simulated" else folder.rstrip("/")
    return {name: f"{folder}/{file}" for name, file in CHECKPOINT_FILES.items()}


def atlas_of(embedding):
    """The .h5ad file of an embedding's atlas."""
    name = config["embeddings"][embedding]["atlas"]
    entry = config["atlases"][name]
    return entry["file"] if entry["source"] == "file" else f"resources/atlases/{name}.h5ad"


def threads_of(embedding):
    """Threads of a job that embeds; a small simulated checkpoint gains nothing from several."""
    return 1 if config["embeddings"][embedding]["checkpoint"] == "simulated" else 4


def atlas_settings(embedding):
    """How the file of an embedding's atlas is read."""
    entry = config["atlases"][config["embeddings"][embedding]["atlas"]]
    return {key: entry.get(key) for key in ("label", "donor", "layer", "linear", "held_out", "classes")}


def classes_of(embedding):
    """The table of an atlas' coarse classes, where it has one, so that an edit of it is noticed."""
    return atlas_settings(embedding)["classes"] or []


def settings_of(embedding, *keys):
    """What of an embedding's entry decides about a job: a change of the rest does not repeat it."""
    entry = config["embeddings"][embedding]
    return {key: entry[key] for key in keys if key in entry}


def size_of(embedding, bank):
    """How many cells a bank holds."""
    return config["embeddings"][embedding]["held_out" if bank.startswith("held_out") else "bank"]


def memory_of_smoothing(wildcards):
    """MB to train a smoothing: a bank of the released width has 2 KB a cell, and is held five times."""
    return 4000 + size_of(wildcards.embedding, "bank") // 100


def bank_of(embedding, smoothing):
    """The embedded cells that a smoothing is trained on."""
    return f"results/embeddings/{embedding}/bank/{BANKS[config['smoothings'][smoothing]['mix']]}.npz"


def absent_files(model):
    """Which files of pretrained weights or cells a model, or one whose run it needs, lacks; "" if all are there."""
    # by what says more
    needed = {"config/pretrained.tsv": [], "docs/atlas.md": [], "slide_features": [], "slide_regions": []}
    for name in lineage(model):
        needed["config/pretrained.tsv"] += map(Path, named(MODELS[name].get("params", {}), "checkpoint"))
        for embedding in embeddings_in(MODELS[name]["inputs"]):
            entry = config["embeddings"][embedding]
            if entry["checkpoint"] != "simulated":
                needed["config/pretrained.tsv"] += [
                    Path(entry["checkpoint"], file) for file in CHECKPOINT_FILES.values()
                ]
            needed["docs/atlas.md"] += [Path(file) for file in [config["atlases"][entry["atlas"]].get("file")] if file]
    for name in images_of(model):
        section, files_of = (
            ("slide_features", files_of_features)
            if name in config.get("slide_features", {})
            else ("slide_regions", files_of_regions)
        )
        needed[section] += map(Path, files_of(name))
    missing = {where: sorted({str(path) for path in files if not path.exists()}) for where, files in needed.items()}
    return "; ".join(f"there is no {', '.join(files)} (see {where})" for where, files in missing.items() if files)


def embeddings_in(inputs):
    """The embeddings that a model's inputs need: one to read, or the panel of a gene selection."""
    panels = [config["gene_selections"][name].get("panel") for name in selections_in(inputs)]
    return {*panels, inputs.get("scgpt", {}).get("embedding")} - {None}


def runs(row):
    """Whether a row of a table can be run: its cohorts and the weights its model needs are there."""
    return all(map(available, cohorts_of(row))) and (imported(row["cohort"]) or not absent_files(row["model"]))


def embeddings_shown():
    """The embeddings that a row of any table reads, of cohorts that can be had."""
    return sorted({options["embedding"] for options in embedded_inputs() if "embedding" in options})


def smoothings_of(embedding):
    """The smoothings of an embedding that a row of any table reads, in the order of the configuration."""
    read = {options.get("smoothing") for options in embedded_inputs() if options.get("embedding") == embedding}
    return [name for name in config.get("smoothings", {}) if name in read]


def embedded_inputs():
    """The options of the block `scgpt` of every row that has one."""
    rows = [row for table in config["tables"] for row in rows_of(table)]
    rows = [row for row in rows if not imported(row["cohort"]) and runs(row)]
    inputs = [MODELS[model]["inputs"] for row in rows for model in sorted(lineage(row["model"]))]
    return [blocks["scgpt"] for blocks in inputs if "scgpt" in blocks]


def per_smoothing(file, embedding):
    """A file of every smoothing of an embedding."""
    return [f"results/embeddings/{embedding}/smoothings/{name}/{file}" for name in smoothings_of(embedding)]
