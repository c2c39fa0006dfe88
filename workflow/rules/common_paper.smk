"""What tables and the report are made of: pure functions of the configuration and of what can be had."""

import os
import sys

# The kinds of genomic file of which some may be set aside, by the layout of the cohort.
EXCLUDED_BY = {"gdc": ("expression", "alterations"), "ivygap": ("expression",)}


def simulated_table(table):
    """Whether a table rests on a simulated cohort: such figures are never set beside published ones."""
    cohorts = {name for row in rows_of(table) for cohort in cohorts_of(row) for name in members(cohort)}
    return any(config["cohorts"][name]["source"] == "simulated" for name in cohorts)


def title_of_embedding(embedding):
    """Heading of what is shown of an embedding; says what of it is simulated."""
    entry = config["embeddings"][embedding]
    parts = {"checkpoint": entry["checkpoint"], "cells": config["atlases"][entry["atlas"]]["source"]}
    simulated = [name for name, source in parts.items() if source == "simulated"]
    return f"{embedding} (simulated {' and '.join(simulated)})" if simulated else embedding


def entry_of(table):
    """The entry of a table; rows of released predictions take the seed that these have, whatever the table asks for."""
    rows = [row | ({"seeds": None} if imported(row["cohort"]) else {}) for row in rows_of(table)]
    return config["tables"][table] | {"rows": rows}


def labels_of(table):
    """What readers are shown of the cohorts and tasks of a table: {"cohort" or "task": {name: label}}."""
    rows = rows_of(table)
    names = {"cohort": {name for row in rows for name in cohorts_of(row)}, "task": {row["task"] for row in rows}}
    return {kind: {name: config[f"{kind}s"][name].get("label", name) for name in sorted(names[kind])} for kind in names}


def metrics_of_table(table):
    """The metrics of every row of a table that can be run."""
    return sorted({metrics_of_row(row) for row in rows_of(table) if runs(row)})


def absent_rows(table):
    """Why rows cannot be run although their cohort can be had, by label: weights or cells are not there."""
    reasons = {row["label"]: absent_files(row["model"]) for row in rows_of(table) if not imported(row["cohort"])}
    return {label: reason for label, reason in reasons.items() if reason}


def metrics_shown():
    """The tidy metrics of every cohort that can be had."""
    cohorts = {row["cohort"] for table in config["tables"] for row in rows_of(table) if runs(row)}
    return [f"results/{cohort}/metrics.parquet" for cohort in sorted(cohorts)]


def availability_of(table):
    """The files that say whether a table's cohorts can be had."""
    rows = [row for row in rows_of(table) if not imported(row["cohort"])]
    cohorts = {name for row in rows for cohort in cohorts_of(row) for name in members(cohort)}
    return [f"resources/{cohort}/availability.json" for cohort in sorted(cohorts)]


def published_figures(table):
    """The file with the figures that a table's paper published, if there is one."""
    name = config["tables"][table].get("published")
    return f"{workflow.basedir}/config/published/{name}.csv" if name else []


def metrics_of_cohort(cohort):
    """Metrics of every model that a table evaluates and that is trained on a cohort."""
    rows = [row for table in config["tables"] for row in rows_of(table)]
    return sorted({metrics_of_row(row) for row in rows if row["cohort"] == cohort and runs(row)})


def runs_shown():
    """The distinct (cohort, task) pairs of all tables whose cohort can be had and is trained on here."""
    rows = [row for table in config["tables"] for row in rows_of(table)]
    return sorted({(row["cohort"], row["task"]) for row in rows if not imported(row["cohort"]) and runs(row)})


def images_shown(section):
    """The (cohort, entry of slide_features or slide_regions) pairs that the model or task of a row asks for."""
    shown = set()
    for row in (row for table in config["tables"] for row in rows_of(table)):
        if not imported(row["cohort"]) and runs(row):
            modalities = config["tasks"][row["task"]].get("modalities", [])
            names = {*modalities, *images_of(row["model"])}
            shown |= {(row["cohort"], name) for name in names & set(config.get(section, {}))}
    for cohort, task in scored_elsewhere():
        names = set(modalities_scored(cohort, task)) & set(config.get(section, {}))
        shown |= {(cohort, name) for name in names}
    return sorted(shown)


def tables_scored(cohort):
    """Which of expression and alterations is read of a cohort that is only scored; the other need not even be there."""
    asked = [modalities_scored(cohort, task).values() for name, task in scored_elsewhere() if name == cohort]
    files = {Path(file) for of_task in asked for file in of_task}
    genomic = {file for file in files if file.is_relative_to(f"results/{cohort}/genomics")}
    called = {file for file in genomic if file.stem == "alterations"}
    return ({"alterations"} if called else set()) | ({"expression"} if genomic - called else set())


def report_files(kind):
    """Files of one kind for the report: excluded, populations, slides, sheets, reachable, filters or smoothings."""
    cohorts = sorted({cohort for cohort, _ in runs_shown()})
    trained = {name for cohort in cohorts for name in members(cohort)}
    scored = sorted({cohort for cohort, _ in scored_elsewhere()} - trained)
    simulated = [cohort for cohort in cohorts if simulated_folder(cohort)]
    slides, regions = images_shown("slide_features"), images_shown("slide_regions")
    cut = {(cohort, config["slide_features"][name].get("regions")) for cohort, name in slides} | set(regions)
    sheets = [("slides", *pair) for pair in slides] + [("regions", *pair) for pair in sorted(cut, key=str) if pair[1]]
    return {
        "excluded": [f"results/{cohort}/excluded_cases.tsv" for cohort in cohorts + scored]
        + [
            f"results/{cohort}/genomics/excluded_{table}.tsv"
            for cohort, tables in [
                *((name, tables_had(name)) for name in sorted(trained)),
                *((name, tables_scored(name)) for name in scored),
            ]
            for table in EXCLUDED_BY.get(layout(cohort), ())
            if table in tables
        ]
        + [f"results/{cohort}/populations/{task}_excluded.tsv" for cohort, task in runs_shown()]
        + [f"results/{cohort}/populations_scored/{task}_excluded.tsv" for cohort, task in scored_elsewhere()],
        "populations": [f"results/{cohort}/populations/{task}.parquet" for cohort, task in runs_shown()]
        + [f"results/{cohort}/populations_scored/{task}.parquet" for cohort, task in scored_elsewhere()],
        "slides": [f"results/{cohort}/slides/{name}/slides.parquet" for cohort, name in slides]
        + [f"results/{cohort}/regions/{name}/slides.parquet" for cohort, name in regions],
        "sheets": [f"results/{cohort}/{kind}/{name}/contact_sheet.png" for kind, cohort, name in sheets],
        "reachable": [f"results/{cohort}/reachable.json" for cohort in simulated],
        "filters": [f"results/{cohort}/genomics/gene_filters.tsv" for cohort in cohorts if chooses_genes(cohort)],
        "smoothings": [
            f"results/embeddings/{name}/smoothings.csv" for name in embeddings_shown() if smoothings_of(name)
        ],
    }[kind]


def described(paths, describe):
    """A text for each of some inputs; nothing for those that a checkpoint has yet to tell."""
    return [describe(path) for path in paths if Path(path).is_relative_to("results")]


def heading(path):
    """What a file under results/ is about, for a reader: its cohort and, where it has one, its task or features."""
    _, cohort, *rest = Path(path).parts
    about = [part.removesuffix("_excluded") for part in (Path(rest[-1]).stem, rest[-2] if len(rest) > 1 else "")]
    names = {
        "excluded_cases": "follow-up (left out of survival alone)",
        "excluded_expression": "expression files",
        "excluded_alterations": "alteration files",
    }
    label = config["cohorts"][cohort].get("label", cohort)
    if rest[0] in ("slides", "regions"):
        return f"{label}, {rest[1]}" if rest[0] == "slides" else f"{label}, regions {rest[1]}"
    task = config["tasks"].get(about[0], {}).get("label", about[0])
    return label if rest[-1] in ("reachable.json", "gene_filters.tsv") else f"{label}, {names.get(about[0], task)}"


def provenance():
    """What the report says about how it was made."""
    settings = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()
    files = " and ".join(os.path.relpath(file) for file in workflow.configfiles) or "command line"
    return {"configuration": files, "configuration digest": settings[:16], "Python": sys.version.split()[0]}
