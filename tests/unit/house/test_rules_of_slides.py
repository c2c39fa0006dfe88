"""What the rules of slides refuse, what they take as their input, and the memory that they ask for."""

import copy
from pathlib import Path

import pytest
import yaml
from snakemake.exceptions import WorkflowError
from snakemake.utils import validate

ROOT = Path(__file__).parents[3]
RULES = [ROOT / "workflow" / "rules" / f"{name}.smk" for name in ("common_slides", "references")]
SCHEMA = ROOT / "workflow/schemas/config.schema.yaml"
DEMO = yaml.safe_load((ROOT / "config/config.yaml").read_text())
# One entry of each section that there must be.
NEEDED = {key: dict([next(iter(DEMO[key].items()))]) for key in ("cohorts", "tasks", "protocols", "models", "tables")}
ENCODER = {"encoder": "resnet18", "weights": "random"}
OF_REGIONS = ENCODER | {"regions": "dense"}
WITH_A_PLACE = {
    "mpp": 1.0,
    "min_tissue": 0.2,
    "quality": {"max_pen": 0.5},
    "stain": {"method": "vahadane"},
    "mpp_overrides": {"S1": 0.5},
}
WITHOUT_A_PLACE = {"max_tiles": 25, "keep_tiles": True}
OF_TILES = WITH_A_PLACE | WITHOUT_A_PLACE
OF_ENCODING = ENCODER | {"tile_px": 448, "stage": 2, "pooling": "mean", "precision": "float32", "batch": 8}


def check(entry):
    """Take a configuration of one entry of slide_features as the workflow does: the names that its rules then see."""
    config = {"slide_features": {"mine": copy.deepcopy(entry)}, "slide_regions": {"dense": {}}}
    validate(copy.deepcopy(NEEDED) | config, str(SCHEMA))
    config |= {"cohorts": {}, "tasks": {}, "tables": {}}
    room = {"config": config, "MODELS": {}, "SCHEMA": SCHEMA, "WorkflowError": WorkflowError}
    room |= {"SCRIPTS": ROOT / "workflow" / "scripts", "yaml": yaml, "Path": Path}
    for rules in RULES:
        exec(rules.read_text(), room)
    return room


@pytest.mark.parametrize(("key", "value"), OF_TILES.items())
def test_options_of_tiles_beside_regions(key, value):
    where = "set it in slide_regions: dense" if key in WITH_A_PLACE else "leave it out"
    message = f"^slide_features: mine: {key}: crops of regions are encoded as they were cut; {where}$"
    with pytest.raises(WorkflowError, match=message):
        check(OF_REGIONS | {key: value})
    check(ENCODER | {key: value})


@pytest.mark.parametrize(("key", "value"), (OF_TILES | OF_ENCODING | OF_REGIONS).items())
def test_options_beside_features_made_elsewhere(key, value):
    with pytest.raises(WorkflowError, match=f"^slide_features: mine: {key}: features made elsewhere"):
        check({"from": "given", key: value})


def test_what_is_read_and_what_is_a_default_may_be_said():
    check(OF_REGIONS | OF_ENCODING | {"threads": 2, "gpu": 0, "max_excluded": 0.5})
    check(OF_REGIONS | {"mpp": 0.5, "quality": {}, "stain": {"method": "none"}, "keep_tiles": False})
    check({"from": "given", "max_excluded": 0.5, "gpu": 0})


def test_files_made_elsewhere_are_the_input(tmp_path):
    """A folder's own date is silent about a file that is written anew, or lies in a folder within it."""
    names = ["a.h5", "b.pt", "h5_files/c.h5", "pt_files/d.pt"]
    for name in [*names, "notes.txt", "other/e.h5"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = check({"from": str(tmp_path)})["dropped_in_files"]("mine")
    assert found == [str(tmp_path / name) for name in names]


@pytest.mark.parametrize(
    ("entry", "mb"),
    [
        ({"encoder": "resnet50-stage3"}, 6000),
        ({"encoder": "vit_large_patch16_224"}, 6000),
        ({"encoder": "h-optimus-0"}, 8539),
        ({"encoder": "h-optimus-0", "mem_mb": 16000}, 16000),
    ],
)
def test_memory_of_encoding(entry, mb):
    assert check({"weights": "random"} | entry)["memory_of_encoding"]("mine") == mb


def test_a_batch_is_told_the_resolutions_of_its_own_slides(tmp_path, monkeypatch):
    """A job whose settings change is done again: the resolution of one slide concerns one batch."""
    monkeypatch.chdir(tmp_path)
    of_batch = check(ENCODER)["of_batch"]
    settings = {"mpp": 0.5, "mpp_overrides": {"a": 0.25, "c.1": 0.2, "elsewhere": 1.0}}
    assert of_batch(settings, "mine", "slide-0") == settings
    (tmp_path / "resources/mine").mkdir(parents=True)
    lines = ["kind\tbatch\tfilename", "slide\tslide-0\ta.svs", "slide\tslide-0\tb.svs", "slide\tslide-1\tc.1.jpg"]
    (tmp_path / "resources/mine/manifest.tsv").write_text("\n".join(lines) + "\n")
    assert of_batch(settings, "mine", "slide-0") == {"mpp": 0.5, "mpp_overrides": {"a": 0.25}}
    assert of_batch(settings, "mine", "slide-1") == {"mpp": 0.5, "mpp_overrides": {"c.1": 0.2}}
    assert of_batch({"mpp_overrides": {}}, "mine", "slide-1") == {"mpp_overrides": {}}
