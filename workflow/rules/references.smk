"""Refuses, before the first job, a configuration whose entries name what it does not define."""

import ast
import csv
import re

# Names of a run's other files, which no block can have.
TAKEN = {"population", "splits", "groups", "cases", "tiles_index", "tiles_coords", "region_index", "lists"}
TAKEN |= {"checkpoints", "starts", "weights", "predictions", "tuning"}


def library_table(module, name):
    """A literal table of a module of the library, by which jobs would refuse what is refused here; it is not imported."""
    tree = ast.parse(SCRIPTS.joinpath("histofuse", module).read_text())
    named = [node for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name]
    return ast.literal_eval(named[0].value)


TELLING = library_table("training/dataset.py", "TELLING")
KEYS_OF_MODULATION = library_table("training/modulation.py", "KEYS")


def refuse_unknown_references():
    """Refuse, before the first job, an entry that names something the configuration does not define."""
    features, cut = config.get("slide_features", {}), config.get("slide_regions", {})
    if twice := sorted(features.keys() & cut.keys()):
        raise WorkflowError(f"slide_regions: {twice[0]}: is also an entry of `slide_features`; call one otherwise")
    for name, entry in config["tasks"].items():
        for modality in entry.get("modalities", []):
            if modality not in {"expression", "alterations", *features, *cut}:
                raise WorkflowError(
                    f"tasks: {name}: modalities: {modality!r} is neither expression nor alterations, nor an entry of "
                    "`slide_features` or `slide_regions`"
                )
    for name, entry in features.items():
        if "regions" in entry and entry["regions"] not in cut:
            raise WorkflowError(
                f"slide_features: {name}: regions: {entry['regions']!r} is not an entry of `slide_regions`"
            )
        refuse_idle_options(name)
    for name, entry in cut.items():
        if entry["crop_px"] > entry["side_px"]:
            raise WorkflowError(
                f"slide_regions: {name}: crop_px: {entry['crop_px']} is more than side_px: {entry['side_px']}"
            )
    for name, entry in config["cohorts"].items():
        for member in entry.get("cohorts", []):
            if member not in config["cohorts"] or layout(member) not in ("gdc", "ivygap"):
                raise WorkflowError(f"cohorts: {name}: cohorts: {member!r} is not a cohort of GDC or IvyGAP files")
    for name, entry in MODELS.items():
        refuse_unknown_modulation(f"models: {name}: training: modulation", entry.get("training", {}).get("modulation"))
    for name in {entry["tuning"] for entry in MODELS.values() if "tuning" in entry}:
        for options in config["tunings"][name]["space"].get("modulation", []):
            refuse_unknown_modulation(f"tunings: {name}: space: modulation", options)
    if "raw" in config.get("smoothings", {}):
        raise WorkflowError("smoothings: raw: this name is taken by the embedding itself; choose another one")
    for table, entry in config["tables"].items():
        rows = rows_of(table)
        for row in rows:
            refuse_unknown_row(table, row)
        labels = [row["label"] for row in rows]
        if len(set(labels)) < len(labels):
            raise WorkflowError(f"tables: {table}: two rows have the same label")
        if entry.get("reference_row", labels[0]) not in labels:
            raise WorkflowError(f"tables: {table}: reference_row: {entry['reference_row']!r} is not the label of a row")
        published = published_figures(table)
        if published and not Path(published).is_file():
            raise WorkflowError(f"tables: {table}: published: there is no {published}")


def refuse_unknown_row(table, row):
    """Refuse a row whose cohort, task, protocol or model is not defined, or whose model cannot be built."""
    for key in ("cohort", "task", "protocol", "model"):
        known = (
            config["cohorts"][row["cohort"]]["models"]
            if key == "model" and imported(row["cohort"])
            else config[f"{key}s"]
        )
        if row.get(key) not in known:
            raise WorkflowError(
                f"tables: {table}: row {row['label']!r}: {key}: {row.get(key)!r} is not an entry of `{key}s`"
            )
    task, protocol = config["tasks"][row["task"]], config["protocols"][row["protocol"]]
    entry = config["tables"][table]
    wrong = [metric for metric in entry["metrics"] if (metric in SURVIVAL_METRICS) != (task["kind"] == "survival")]
    if wrong or ("kaplan_meier" in entry and task["kind"] != "survival"):
        what = f"metrics: {', '.join(wrong)}" if wrong else "kaplan_meier"
        raise WorkflowError(f"tables: {table}: {what}: not for {row['task']}, which is a {task['kind']} task")
    if "scored_on" in row:
        refuse_unscorable(table, row)
    if imported(row["cohort"]):
        return
    if protocol["kind"] == "given" and row["protocol"] not in config["cohorts"][row["cohort"]].get("splits", {}):
        raise WorkflowError(f"cohorts: {row['cohort']}: splits: {row['protocol']} is missing, which {table} asks for")
    given = config["cohorts"][row["cohort"]].get("splits", {}).get(row["protocol"], [])
    if protocol["kind"] == "given" and len(given) != protocol["n_splits"]:
        raise WorkflowError(
            f"protocols: {row['protocol']}: n_splits: {protocol['n_splits']} is not the number of split files that "
            f"{row['cohort']} names for it, {len(given)}"
        )
    models = sorted(lineage(row["model"])) if complete(row["model"]) else []
    for model in models:
        class_file(model)
    asked = {options.get("from", block) for model in models for block, options in MODELS[model]["inputs"].items()}
    asked = asked.union(task.get("modalities", []), *(images_of(model) for model in models))
    lacking = asked & ({"expression", "alterations"} - tables_had(row["cohort"]))
    if not has_slides(row["cohort"]):
        made_here = re.compile(features_made_by("slides", "regions"))
        lacking |= {name for name in asked if name and made_here.fullmatch(name)}
        lacking |= asked & set(config.get("slide_regions", {}))
    if lacking:
        raise WorkflowError(
            f"tables: {table}: row {row['label']!r}: its model or its task asks for {' and '.join(sorted(lacking))}, "
            f"which {row['cohort']} does not have"
        )
    for model in models:
        refuse_unknown_inputs(model, row["cohort"], MODELS[model]["inputs"])
        refuse_label(model, f"tables: {table}: row {row['label']!r}", row["task"])


def refuse_label(model, where, task):
    """Refuse a model of a row that reads the class to predict from the case table, or what tells it."""
    predicted = config["tasks"][task].get("column") if config["tasks"][task]["kind"] == "classification" else None
    for column in MODELS[model]["inputs"].get("clinical", {}).get("columns", []):
        if column == predicted or column in TELLING.get(predicted, ()):
            what = "is" if column == predicted else f"tells {predicted}, which is"
            raise WorkflowError(
                f"{where}: models: {model}: inputs: clinical: columns: {column} {what} what the task {task} predicts; "
                "choose another model, or make an entry without it"
            )


def refuse_unknown_modulation(where, options):
    """Refuse a modulation with a key of the other kind."""
    kind = (options or {}).get("kind", "balance")
    for key in options or {}:
        if key not in {"kind", *KEYS_OF_MODULATION[kind]}:
            known = ", ".join(KEYS_OF_MODULATION[kind])
            raise WorkflowError(f"{where}: {key}: is no key of kind {kind}, which has {known}")


def complete(model, chain=()):
    """True; refuses a model, or one whose run it needs, that has no class or no inputs."""
    if model in MODELS and model not in chain:
        for key in ("class", "inputs"):
            if not MODELS[model].get(key):
                raise WorkflowError(f"models: {model}: {key} is missing, here and in what it extends")
        return all([complete(parent, (*chain, model)) for parent in parents_of(model)])
    return bool(lineage(chain[0] if chain else model))


def refuse_unknown_regions(model, inputs):
    """Refuse a model whose regions are not defined or smaller than its crops, or that takes tiles as well."""
    where, options = f"models: {model}: inputs: regions", inputs["regions"]
    cut = config.get("slide_regions", {}).get(options.get("regions"))
    if cut is None:
        raise WorkflowError(f"{where}: regions: {options.get('regions')!r} is not an entry of `slide_regions`")
    if options["crop_px"] > cut["side_px"]:
        raise WorkflowError(f"{where}: crop_px: {options['crop_px']} is more than the regions' {cut['side_px']} px")
    if any(map(is_bag, inputs)):
        raise WorkflowError(f"{where}: a row is a slide's tiles or one region, not both; take one of them out")


def refuse_unknown_bag(model, block, options):
    """Refuse a bag of features that are not defined, or a map without a size."""
    where = f"models: {model}: inputs: {block}"
    if options.get("features") not in config.get("slide_features", {}):
        raise WorkflowError(f"{where}: features: {options.get('features')!r} is not an entry of `slide_features`")
    if "order" in options and "bag" not in options:
        raise WorkflowError(f"{where}: order needs a bag")


def refuse_unknown_vectors(model, block, options):
    """Refuse vectors of a run whose model makes none."""
    name = MODELS[options["run"]]["class"]
    if not offers(class_file(options["run"]), name.partition(":")[2], "vectors"):
        raise WorkflowError(f"models: {model}: inputs: {block}: run: {name} of {options['run']} has no method vectors")


def refuse_unknown_inputs(model, cohort, inputs):
    """Refuse inputs that name a table, features, a gene selection, an embedding or a smoothing that is not there."""
    if "regions" in inputs:
        refuse_unknown_regions(model, inputs)
    for block, options in inputs.items():
        where = f"models: {model}: inputs: {block}"
        if block in TAKEN or block.startswith(("selection_", "external_")):
            raise WorkflowError(f"{where}: this name is taken; call the block otherwise")
        if is_bag(block):
            refuse_unknown_bag(model, block, options)
        if "run" in options:
            refuse_unknown_vectors(model, block, options)
        if not is_table(block, options):
            continue
        if block not in {"clinical", "alterations", "expression", "scgpt"} and "from" not in options:
            raise WorkflowError(f"{where}: `from` is missing: which table is the block taken from?")
        floor = config["cohorts"][cohort].get("genomics", {}).get("min_frequency", 0.05)
        if layout(cohort) == "gdc" and options.get("min_frequency", 1) < floor:
            raise WorkflowError(
                f"{where}: min_frequency: {options['min_frequency']} is below {floor}, under which {cohort} "
                "may have dropped alterations; lower its `genomics: min_frequency` as well"
            )
        for key in ("selection", "embedding", "smoothing"):
            name, known = options.get(key), config.get("gene_selections" if key == "selection" else f"{key}s", {})
            if name and name not in known:
                raise WorkflowError(f"{where}: {key}: {name!r} is not one of {', '.join(known) or 'none'}")
        strange = sorted(set(options.get("group", [])) - known_groups()) if "group" in options else []
        if strange:
            raise WorkflowError(
                f"{where}: group: {strange[0]!r} is not one of {', '.join(sorted(known_groups()))} of {GENE_GROUPS}"
            )
        panel = config.get("gene_selections", {}).get(options.get("selection"), {}).get("panel")
        if panel and panel not in config.get("embeddings", {}):
            raise WorkflowError(
                f"gene_selections: {options['selection']}: panel: {panel!r} is not an entry of `embeddings`"
            )
        if panel:
            refuse_unknown_atlas(panel)
    if "scgpt" in inputs:
        refuse_unknown_embedding(model, cohort, inputs["scgpt"])


@functools.cache
def known_groups():
    """The groups of the table of gene groups, and the one that is made of the genes of two of them."""
    if not Path(GENE_GROUPS).is_file():
        raise WorkflowError(f"gene_groups: there is no {GENE_GROUPS}")
    with open(GENE_GROUPS, encoding="utf-8-sig", newline="") as file:
        groups = {(line.get("group") or "").strip() for line in csv.DictReader(file, delimiter="\t")}
    both = {"tumour_and_microenvironment"} if {"tumour", "microenvironment"} <= groups else set()
    return groups - {""} | both


def refuse_unknown_atlas(embedding):
    """Refuse an embedding whose atlas is not defined, or names a table of classes that is not there."""
    name = config["embeddings"][embedding]["atlas"]
    if name not in config.get("atlases", {}):
        raise WorkflowError(f"embeddings: {embedding}: atlas: {name!r} is not an entry of `atlases`")
    classes = config["atlases"][name].get("classes")
    if classes and not Path(classes).is_file():
        raise WorkflowError(f"atlases: {name}: classes: there is no {classes}")
    panel = config["embeddings"][embedding].get("panel", {}).get("file")
    if panel and not Path(panel).is_file():
        raise WorkflowError(f"embeddings: {embedding}: panel: file: there is no {panel}")


def refuse_unknown_embedding(model, cohort, options):
    """Refuse an embedding without a name or an atlas, or a smoothing that was made for another one."""
    where = f"models: {model}: inputs: scgpt"
    if "embedding" not in options:
        raise WorkflowError(
            f"{where}: `embedding` is missing; there are {', '.join(config.get('embeddings', {})) or 'none'}"
        )
    smoothing = options.get("smoothing")
    refuse_unknown_atlas(options["embedding"])
    if layout(cohort) == "published_tables":
        raise WorkflowError(f"{where}: {cohort} has z-scores of few genes only; an embedding needs TPM")
    if smoothing and config["smoothings"][smoothing]["embedding"] != options["embedding"]:
        raise WorkflowError(
            f"{where}: the smoothing {smoothing} is of the embedding {config['smoothings'][smoothing]['embedding']}"
        )


refuse_unknown_references()
