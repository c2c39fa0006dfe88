"""Slides and regions: where their batches lie, and which files of the user they are made with."""

import csv
import functools
from pathlib import Path

# Options of slide_features about the tiles of whole slides: crops of regions are encoded as they were cut.
OF_TILES = ("mpp", "min_tissue", "quality", "max_tiles", "stain", "keep_tiles", "mpp_overrides")
# Options about how anything is encoded: features that were made elsewhere are taken as they are.
OF_ENCODING = ("regions", "tile_px", "encoder", "weights", "stage", "pooling", "precision", "batch")


@functools.cache
def defaults_of_features():
    """What validation fills in for an entry of slide_features, and for what is within it."""
    definitions = yaml.safe_load(SCHEMA.read_text())["$defs"]

    def filled(definition):
        options = definition.get("properties", {})
        defaults = {key: option["default"] for key, option in options.items() if "default" in option}
        for key, value in defaults.items():
            if isinstance(value, dict):
                defaults[key] = value | filled(definitions[options[key]["$ref"].rpartition("/")[2]])
        return defaults

    return filled(definitions["slide_features"])


def refuse_idle_options(features):
    """Refuse an entry of slide_features with an option, other than its default, that would change nothing."""
    entry = config["slide_features"][features]
    if "from" in entry:
        unread, because = (*OF_TILES, *OF_ENCODING), "features made elsewhere (`from`) are taken as they are"
    elif "regions" in entry:
        unread, because = OF_TILES, "crops of regions are encoded as they were cut"
    else:
        return
    for key in unread:
        if entry.get(key) != defaults_of_features().get(key):
            there = "from" not in entry and key in config["slide_regions"][entry["regions"]]
            do = f"set it in slide_regions: {entry['regions']}" if there else "leave it out"
            raise WorkflowError(f"slide_features: {features}: {key}: {because}; {do}")


def features_made_by(*roads):
    """A regular expression of the slide features that are made of whole slides, of regions, or dropped in."""
    kinds = {
        name: "from" if "from" in entry else "regions" if "regions" in entry else "slides"
        for name, entry in config.get("slide_features", {}).items()
    }
    return one_of(name for name, kind in kinds.items() if kind in roads)


def of_batch(settings, cohort, batch):
    """Settings with the resolutions of a batch's own slides alone, so that another slide's lets it be.

    Batches are asked for once the manifest is there; a batch that is asked for by name before it gets them all.
    """
    manifest = Path("resources", cohort, "manifest.tsv")
    if not settings["mpp_overrides"] or not manifest.is_file():
        return settings
    with manifest.open(encoding="utf-8", newline="") as file:
        lines = [line for line in csv.DictReader(file, delimiter="\t") if line["batch"] == batch]
    slides = {Path(line["filename"]).stem for line in lines}
    overrides = {slide: mpp for slide, mpp in settings["mpp_overrides"].items() if slide in slides}
    return settings | {"mpp_overrides": overrides}


def memory_of_encoding(features):
    """MB that an encoding job asks for: what its entry says, or enough for the weights of its preset, 4 bytes each."""
    entry = config["slide_features"][features]
    with SCRIPTS.joinpath("histofuse", "slides", "encoder_presets.tsv").open(encoding="utf-8", newline="") as file:
        millions = {row["name"]: float(row["parameters"] or 0) for row in csv.DictReader(file, delimiter="\t")}
    return entry.get("mem_mb", max(6000, 4000 + round(4 * millions.get(entry["encoder"], 0))))


def dropped_in_files(features):
    """The files of features that were made elsewhere: a folder's own date is silent about changes within files."""
    places = library_table("slides/dropin.py", "PLACES")
    return sorted(
        str(file) for place in places for file in Path(config["slide_features"][features]["from"]).glob(place)
    )


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


def region_folders(cohort, regions):
    """Where the cut regions of a cohort and its members lie, one folder per batch of slide files."""
    return [
        f"results/{member}/regions/{regions}/{Path(receipt).stem}"
        for member in members(cohort)
        for receipt in receipts(member, "slide")
    ]


def region_folder(cohort, features, batch):
    """Where a batch's regions lie that slide features are made of."""
    regions = config["slide_features"][features]["regions"]
    return f"results/{cohort}/regions/{regions}/{batch}"


def regions_of(features):
    """What of the settings of regions decides how their fixed crops are encoded."""
    entry = config["slide_regions"][config["slide_features"][features]["regions"]]
    return {key: entry[key] for key in ("side_px", "crop_px", "stride_px")}
