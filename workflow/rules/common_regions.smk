"""Where regions lie, and how those that slide features are made of were cut."""


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
