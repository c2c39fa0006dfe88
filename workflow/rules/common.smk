"""What the rules share: resolved configuration, digests of code, and which files a run or a table needs."""

import ast
import copy
import functools
import hashlib
import json
from itertools import product
from pathlib import Path

from snakemake.exceptions import WorkflowError

SCRIPTS = Path(workflow.basedir, "workflow", "scripts")
SURVIVAL_METRICS = {"harrell_c", "uno_c", "time_auc", "integrated_brier", "slide_harrell_c"}
GENE_GROUPS = config.get("gene_groups") or f"{workflow.basedir}/config/gene_groups.tsv"
CONFIG_FOLDERS = [Path(file).parent for file in workflow.configfiles]


def merged(base, change):
    """A nested dictionary with the values of another put over it."""
    result = copy.deepcopy(base)
    for key, value in change.items():
        deeper = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if deeper else copy.deepcopy(value)
    return result


def resolved(name, chain=()):
    """A model entry with everything that it inherits through `extends`."""
    if name not in config["models"] or name in chain:
        problem = "is its own ancestor" if name in chain else "is not an entry of `models`"
        raise WorkflowError(f"models: {' extends '.join([*chain, name])}: {name} {problem}")
    entry = copy.deepcopy(config["models"][name])
    parent = entry.pop("extends", None)
    return merged(resolved(parent, (*chain, name)), entry) if parent else entry


def imports(path):
    """Yield the dotted names that a Python file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@functools.cache  # parsing takes longer than most things asked of a job, and hundreds of jobs ask for the same
def code(script, *more):
    """Digest of what a script, the library modules it imports (and more files) and their data do.

    Snakemake is blind to edits in imported modules, and would rerun for an edited comment in the script. As a
    parameter, this digest reruns a job when, and only when, the code that it executes has changed.
    """
    files, queue = set(), [SCRIPTS / script, *map(Path, more)]
    while queue:
        path = queue.pop()
        if path.is_file() and path not in files:
            files.add(path)
            modules = [SCRIPTS.joinpath(*name.split(".")) for name in imports(path)]
            queue += [m.with_suffix(".py") for m in modules] + [m / "__init__.py" for m in modules]
    texts = [ast.dump(ast.parse(path.read_text())) for path in sorted(files)]
    data = [path.with_suffix(".tsv") for path in sorted(files)]  # a module's data lies beside it under its name
    texts += [path.read_text() for path in data if path.is_file()]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def named(params, key):
    """All that nested parameters give under a key, at whatever depth; null is nothing."""
    inner = [named(value, key) for value in params.values() if isinstance(value, dict)]
    return {params.get(key)}.union(*inner) - {None}


def file_of_class(name):
    """The source of a class `module:Name`: in the library, or a user's own file beside the configuration, or None."""
    parts = name.partition(":")[0].split(".")
    paths = [folder.joinpath(*parts).with_suffix(".py") for folder in (SCRIPTS, *CONFIG_FOLDERS)]
    return next((path for path in paths if path.is_file()), None)


def class_file(model):
    """The source of a model's class."""
    name = MODELS[model]["class"]
    path = file_of_class(name)
    if path is None:
        missing = name.partition(":")[0].replace(".", "/")
        raise WorkflowError(f"models: {model}: class: no file {missing}.py beside the configuration")
    return path


def class_files(model):
    """{class: its source} of a model: those that its parameters name, where they have one here, and its own last."""
    inner = {name: file_of_class(name) for name in sorted(named(MODELS[model].get("params", {}), "class"))}
    own = {MODELS[model]["class"]: class_file(model)}
    return {name: str(path) for name, path in (inner | own).items() if path}


def offers(path, name, method):
    """Whether a class has a method, of its own or from a base that is imported by name; nothing is executed."""
    tree = ast.parse(Path(path).read_text())
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    origins = {
        alias.asname or alias.name: (SCRIPTS.joinpath(*node.module.split(".")).with_suffix(".py"), alias.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    if name not in classes:
        return name in origins and origins[name][0].is_file() and offers(*origins[name], method)
    own = any(isinstance(node, ast.FunctionDef) and node.name == method for node in classes[name].body)
    bases = [base.id for base in classes[name].bases if isinstance(base, ast.Name)]
    return own or any(offers(path, base, method) for base in bases)


def is_bag(block):
    """Whether an input of this name is a bag of tile features, as in histofuse.bags; the others are tables or pixels."""
    return block == "tiles" or block.startswith("tiles_")


def parents_of(model):
    """The models whose runs a model's run reads: their weights to start from, or the vectors that they make."""
    entry = MODELS[model]
    stages = [stage["model"] for stage in entry.get("starts_from", [])]
    return stages + [options["run"] for options in entry["inputs"].values() if "run" in options]


def lineage(model, chain=()):
    """A model and all whose runs it needs, at whatever remove."""
    if model in chain or model not in MODELS:
        problem = "needs its own run" if model in chain else "is not an entry of `models`"
        raise WorkflowError(f"models: {' needs '.join([*chain, model])}: {model} {problem}")
    return {model}.union(*(lineage(parent, (*chain, model)) for parent in parents_of(model)))


def rows_of(table):
    """The rows of a table, each with its cohort, task, protocol, model and seeds filled in from the table."""
    entry = config["tables"][table]
    return [
        {key: entry[key] for key in ("cohort", "task", "protocol", "seeds") if key in entry} | row
        for row in entry["rows"]
    ]


def imported(cohort):
    """Whether a cohort consists of somebody's released predictions instead of data to train on."""
    return config["cohorts"][cohort]["source"] == "published_predictions"


def layout(cohort):
    """How a cohort's raw files are laid out: as its source says, or, if they are simulated, whose they imitate."""
    entry = config["cohorts"][cohort]
    if entry["source"] != "simulated":
        return entry["source"]
    return "ivygap" if entry["simulated"].get("study") == "ivygap" else "gdc"


def cohorts_from(*sources):
    """A regular expression of the cohorts with these sources, for wildcard constraints."""
    return "|".join(name for name, entry in config["cohorts"].items() if entry["source"] in sources) or "(?!)"


def cohorts_laid_out_as(*layouts):
    """A regular expression of the cohorts whose files have one of these layouts."""
    return "|".join(name for name in config["cohorts"] if layout(name) in layouts) or "(?!)"


def members(cohort):
    """The cohorts that a meta cohort consists of; any other cohort is its own only member."""
    return config["cohorts"][cohort].get("cohorts", [cohort]) if layout(cohort) == "meta" else [cohort]


def has_slides(cohort):
    """Whether a cohort, or every member of it, comes with slides: IvyGAP's have to be asked for."""
    if len(members(cohort)) > 1:
        return all(has_slides(member) for member in members(cohort))
    entry = config["cohorts"][cohort]
    if entry["source"] == "simulated":
        return entry["simulated"].get("slides_per_case", 0 if layout(cohort) == "ivygap" else 1) > 0
    return "slide" in entry.get("kinds", ["slide"]) if entry["source"] == "gdc" else entry.get("slides", False)


def tables_had(cohort):
    """Which of expression and alterations a cohort comes with; a meta cohort has what all its members have."""
    if len(members(cohort)) > 1:
        return set.intersection(*(tables_had(member) for member in members(cohort))) - {"alterations"}
    entry, of = config["cohorts"][cohort], {"expression": {"expression"}, "alterations": {"mutations", "copy_number"}}
    if layout(cohort) == "ivygap":
        return {"expression"}
    slides_alone = entry.get("simulated", {}).get("files") == "slides"
    kinds = set() if slides_alone else set(entry.get("kinds", ["expression", "mutations", "copy_number"]))
    return {table for table, needed in of.items() if needed <= kinds}


def simulated_folder(cohort):
    """Where a simulated cohort's raw files are made, laid out like a mirror; nothing for other cohorts."""
    simulated = config["cohorts"][cohort]["source"] == "simulated"
    return f"resources/{cohort}/simulated" if simulated else []


def receipts(cohort, *kinds):
    """Receipts of all batches of these kinds of file; needs the manifest."""
    with checkpoints.manifest.get(cohort=cohort).output.manifest.open() as file:
        header, *lines = [line.rstrip("\n").split("\t") for line in file]
    kind, batch = header.index("kind"), header.index("batch")
    batches = sorted({line[batch] for line in lines if line[kind] in kinds})
    return [f"resources/{cohort}/receipts/{name}.tsv" for name in batches]


def alterations_for_labels(cohort):
    """The alterations decide between two diagnoses (CDKN2A) where there are files to call them from."""
    return [f"results/{cohort}/genomics/alterations.parquet"] if receipts(cohort, "copy_number") else []


def receipts_of_splits(cohort, protocol):
    """Receipts of published split files, for a protocol that takes them."""
    return receipts(cohort, "splits") if config["protocols"][protocol]["kind"] == "given" else []


def features_made_by(*roads):
    """A regular expression of the slide features that are made of whole slides, of regions, or dropped in."""
    kinds = {
        name: "from" if "from" in entry else "regions" if "regions" in entry else "slides"
        for name, entry in config.get("slide_features", {}).items()
    }
    return "|".join(name for name, kind in kinds.items() if kind in roads) or "(?!)"


def weights_file(features):
    """The encoder's weights where they are a file, so that other content under the same name is noticed."""
    weights = config["slide_features"][features]["weights"]
    return [] if weights in ("random", "hub") else weights


def stain_target(entry):
    """The image whose stains the tiles get where it is a file, so that other content under the same name is noticed."""
    stain = entry["stain"]
    return [] if stain["method"] == "none" or stain["target"] == "default" else stain["target"]


def files_of_features(features):
    """The user's own files and folders that slide features are made with: weights, tables of regions, stain targets."""
    entry = config["slide_features"][features]
    if "from" in entry:
        return [entry["from"]]
    made_of = files_of_regions(entry["regions"]) if "regions" in entry else [stain_target(entry)]
    return [file for file in (weights_file(features), *made_of) if file]


def files_of_regions(regions):
    """The user's own files that regions are cut with: a table of them, a stain target."""
    entry = config["slide_regions"][regions]
    return [file for file in (stain_target(entry), entry.get("from")) if file]


def slide_folders(cohort, features):
    """Where the encoded slides of a cohort and its members lie, one folder per batch of slide files."""
    if "from" in config["slide_features"][features]:
        return [f"results/{cohort}/slides/{features}/given"]
    return [
        f"results/{member}/slides/{features}/{Path(receipt).stem}"
        for member in members(cohort)
        for receipt in receipts(member, "slide")
    ]


def available(cohort):
    """Whether the cohort's files can be had; known once the manifest was made."""
    if imported(cohort):
        return True
    for member in members(cohort):
        with checkpoints.manifest.get(cohort=member).output.availability.open() as file:
            if not json.load(file)["available"]:
                return False
    return True


def in_mirror(cohort):
    """Which of a cohort's pinned files lie in the mirror folder, so that a file put there later is noticed."""
    mirror, entry = config.get("mirror"), config["cohorts"][cohort]
    if not mirror or "://" in mirror or "table" not in entry:
        return []
    files = [entry["table"], *(file for files in entry.get("splits", {}).values() for file in files)]
    return [Path(mirror, file["url"].split("://", 1)[1]).is_file() for file in files]


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


def with_crops(entry):
    """A model entry whose regions are cropped as their own entry says, where it does not say otherwise."""
    regions = entry.get("inputs", {}).get("regions", {})
    cut = config.get("slide_regions", {}).get(regions.get("regions"), {})
    for key in ("crop_px", "stride_px"):
        if key in cut:
            regions.setdefault(key, cut[key])
    return entry


MODELS = {name: with_crops(resolved(name)) for name in with_tuned_models()}


wildcard_constraints:
    cohort="|".join(config["cohorts"]),
    external="|".join(config["cohorts"]),
    task="|".join(config["tasks"]),
    protocol="|".join(config["protocols"]),
    table="|".join(config["tables"]),
    tuning="|".join(config.get("tunings", {})) or "(?!)",
    model=r"[^/]+",
    features="|".join(config.get("slide_features", {})) or "(?!)",
    selection="|".join(config.get("gene_selections", {})) or "(?!)",
    atlas="|".join(config.get("atlases", {})) or "(?!)",
    embedding="|".join(config.get("embeddings", {})) or "(?!)",
    smoothing="|".join(config.get("smoothings", {})) or "(?!)",
    bank="mixed|single|held_out_mixed|held_out_single",
    split=r"\d+",
    seed=r"\d+",
