"""Cohorts: how their files are laid out, what they come with, and which of it can be had."""

import json
import time
from pathlib import Path


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
    return one_of(name for name, entry in config["cohorts"].items() if entry["source"] in sources)


def cohorts_laid_out_as(*layouts):
    """A regular expression of the cohorts whose files have one of these layouts."""
    return one_of(name for name in config["cohorts"] if layout(name) in layouts)


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


def receipts_of_splits(cohort, protocol):
    """Receipts of published split files, for a protocol that takes them."""
    return receipts(cohort, "splits") if config["protocols"][protocol]["kind"] == "given" else []


def available(cohort):
    """Whether the cohort's files can be had; known once the manifest was made."""
    if imported(cohort):
        return True
    for member in members(cohort):
        with checkpoints.manifest.get(cohort=member).output.availability.open() as file:
            if not json.load(file)["available"]:
                return False
    return True


def look_again():
    """Leave word for the manifest of each cohort that could not be had, where that may have changed since.

    The word is a new input of the rule, so that it runs once more; what depends on the manifest is made anew only if
    the answer is another one. (A parameter would not do: it would differ again as soon as the cohort is there.)
    """
    for cohort in config["cohorts"]:
        answer = Path("resources", cohort, "availability.json")
        awaited = json.loads(answer.read_text()).get("awaits") if answer.is_file() else None
        if awaited == "network" or (awaited and Path(awaited).is_file()):
            answer.with_name("look_again.txt").write_text(f"could not be had before {time.ctime()}\n")


def word_to_look_again(cohort):
    """The file by which a later run has the manifest asked for again; nothing for a cohort that was there at once."""
    word = Path("resources", cohort, "look_again.txt")
    return str(word) if word.is_file() else []


if workflow.is_main_process:
    look_again()
