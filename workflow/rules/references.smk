"""Refuses, before the first job, a configuration whose entries name what it does not define."""


def refuse_unknown_references():
    """Refuse, before the first job, an entry that names something the configuration does not define."""
    features = config.get("slide_features", {})
    for name, entry in config["tasks"].items():
        for modality in entry.get("modalities", []):
            if modality not in {"expression", "alterations", *features}:
                raise WorkflowError(
                    f"tasks: {name}: modalities: {modality!r} is neither expression nor alterations, nor an entry of `slide_features`"
                )
    for name, entry in config["cohorts"].items():
        for member in entry.get("cohorts", []):
            if member not in config["cohorts"] or layout(member) not in ("gdc", "ivygap"):
                raise WorkflowError(f"cohorts: {name}: cohorts: {member!r} is not a cohort of GDC or IvyGAP files")
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
        for model in entry.get("kaplan_meier", []):
            if model not in {row["model"] for row in rows}:
                raise WorkflowError(f"tables: {table}: kaplan_meier: {model!r} is not the model of a row")


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
    if imported(row["cohort"]):
        return
    if protocol["kind"] == "given" and row["protocol"] not in config["cohorts"][row["cohort"]].get("splits", {}):
        raise WorkflowError(f"cohorts: {row['cohort']}: splits: {row['protocol']} is missing, which {table} asks for")
    entry = MODELS[row["model"]]
    for key in ("class", "inputs"):
        if not entry.get(key):
            raise WorkflowError(f"models: {row['model']}: {key} is missing, here and in what it extends")
    class_file(row["model"])
    if layout(row["cohort"]) in ("ivygap", "meta") and {"alterations", "tiles"} & set(entry["inputs"]):
        raise WorkflowError(f"tables: {table}: row {row['label']!r}: {row['cohort']} has expression only so far")
    refuse_unknown_inputs(row, entry["inputs"])
    tiles = entry["inputs"].get("tiles", {}).get("features")
    if "tiles" in entry["inputs"] and tiles not in config.get("slide_features", {}):
        raise WorkflowError(
            f"models: {row['model']}: inputs: tiles: features: {tiles!r} is not an entry of `slide_features`"
        )


def refuse_unknown_inputs(row, inputs):
    """Refuse blocks that name a table, a gene selection, an embedding or a smoothing that is not there."""
    for block, options in inputs.items():
        where = f"models: {row['model']}: inputs: {block}"
        if block not in {"tiles", "clinical", "alterations", "expression", "scgpt"} and "from" not in options:
            raise WorkflowError(f"{where}: `from` is missing: which table is the block taken from?")
        floor = config["cohorts"][row["cohort"]].get("genomics", {}).get("min_frequency", 0.05)
        if layout(row["cohort"]) == "gdc" and options.get("min_frequency", 1) < floor:
            raise WorkflowError(
                f"{where}: min_frequency: {options['min_frequency']} is below {floor}, under which {row['cohort']} "
                "may have dropped alterations; lower its `genomics: min_frequency` as well"
            )
        if block in {"population", "splits", "groups", "cases", "index", "lists"}:
            raise WorkflowError(f"{where}: this name is taken; call the block otherwise")
        for key in ("selection", "embedding", "smoothing"):
            name, known = options.get(key), config.get("gene_selections" if key == "selection" else f"{key}s", {})
            if name and name not in known:
                raise WorkflowError(f"{where}: {key}: {name!r} is not one of {', '.join(known) or 'none'}")
        panel = config.get("gene_selections", {}).get(options.get("selection"), {}).get("panel")
        if panel and panel not in config.get("embeddings", {}):
            raise WorkflowError(
                f"gene_selections: {options['selection']}: panel: {panel!r} is not an entry of `embeddings`"
            )
    if "scgpt" in inputs:
        refuse_unknown_embedding(row, inputs["scgpt"])


def refuse_unknown_embedding(row, options):
    """Refuse an embedding without a name or an atlas, or a smoothing that was made for another one."""
    where = f"models: {row['model']}: inputs: scgpt"
    if "embedding" not in options:
        raise WorkflowError(
            f"{where}: `embedding` is missing; there are {', '.join(config.get('embeddings', {})) or 'none'}"
        )
    entry, smoothing = config["embeddings"][options["embedding"]], options.get("smoothing")
    if entry["atlas"] not in config.get("atlases", {}):
        raise WorkflowError(
            f"embeddings: {options['embedding']}: atlas: {entry['atlas']!r} is not an entry of `atlases`"
        )
    if layout(row["cohort"]) == "published_tables":
        raise WorkflowError(f"{where}: {row['cohort']} has z-scores of few genes only; an embedding needs TPM")
    if smoothing and config["smoothings"][smoothing]["embedding"] != options["embedding"]:
        raise WorkflowError(
            f"{where}: the smoothing {smoothing} is of the embedding {config['smoothings'][smoothing]['embedding']}"
        )


refuse_unknown_references()
