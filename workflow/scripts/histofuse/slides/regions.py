"""Square regions of slides, as whole images: chosen or given by a table, normalised once, packed for training."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from histofuse.io import InputError, atomic, progress, read_table
from histofuse.slides.naming import Names, short_name
from histofuse.slides.normalise import STAIN_COLUMNS, check_target, fit_stains, normaliser, stain_columns
from histofuse.slides.picture import picture
from histofuse.slides.quality import QUALITY, Survey, slide_quality, survey
from histofuse.slides.reader import Slide, SlideError, open_slide
from histofuse.slides.region_table import read_regions
from histofuse.slides.stain import DENSITY, PENALTY, START, Stains, concentrations
from histofuse.slides.tiles import choose_tiles

# Candidates lie this share of a region's side apart.
STEP = 4
# A slide within this of a region's size is a region that somebody has cut out.
SAME_SIZE = 0.01
# Squares whose pixels tell a slide's stains, wherever its regions lie.
STAIN_TILE = {"tile_px": 224, "min_tissue": 0.5}
PREVIEW_PX = 256
SLIDE_COLUMNS = {
    "slide_id": "str",
    "case_id": "str",
    "status": "str",
    "reason": "str",
    "width": "Int64",
    "height": "Int64",
    "mpp": "float64",
    "n_regions": "Int64",
    **dict.fromkeys(
        (f"{what}_fraction" for what in ("tissue", "blurred", "pen", "fold", "black")),
        "float64",
    ),
    **STAIN_COLUMNS,
}
# Of a region: its upper left corner and side in level-0 pixels, its own µm/px, shares of its area (blurred and fold: of
# its tissue), and its mean concentration of haematoxylin at 8 µm/px.
REGION_COLUMNS = {
    "slide_id": "str",
    "case_id": "str",
    "x": "int64",
    "y": "int64",
    "side": "int64",
    "mpp": "float64",
    **dict.fromkeys(("tissue", "blurred", "pen", "fold", "black", "haematoxylin"), "float64"),
}


def cut_regions(receipt: pd.DataFrame, settings: dict, directory: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cut the regions of all slides of a receipt (columns `path, filename, case_id`) into `directory`.

    Per slide that can be used: `{slide_id}.u8` (uint8 [n, side_px, side_px, 3], without a header), `{slide_id}.png`
    (the slide with its regions), `{slide_id}.thumbnail.jpg`, and in `regions/{slide_id}/` a small picture of each
    region k = 1, 2, ….

    Returns a row per slide (columns of SLIDE_COLUMNS, in the receipt's order; status "used", or "excluded" with the
    reason) and a row per region (REGION_COLUMNS). With a table of regions, slides that it does not name are left out.

    Settings: `mpp`, `side_px`, `stain`, `quality` and `mpp_overrides`; `from` (table of regions, see `region_table`)
    or `per_slide` and `min_tissue`.
    """
    check_target(settings["stain"])
    slide_ids = [Path(name).stem for name in receipt["filename"]]
    if twice := sorted({i for i in slide_ids if slide_ids.count(i) > 1}):
        raise InputError(f"the receipt names slide {twice[0]} more than once; keep one row per slide")
    given = _Given(settings["from"]) if settings.get("from") else None
    directory.mkdir(parents=True, exist_ok=True)
    rows, frames = [], []
    slides = zip(receipt["path"], slide_ids, receipt["case_id"], receipt.get("mpp", [""] * len(receipt)))
    for path, slide_id, case_id, mpp in progress(slides, "slides", total=len(receipt)):
        row = {"slide_id": slide_id, "case_id": case_id, "status": "excluded", "reason": "", "n_regions": 0}
        try:
            places = None if given is None else given.of(slide_id)
            if places is not None and places.empty:
                continue
            override = settings["mpp_overrides"].get(slide_id) or _number(mpp)
            with open_slide(path, override) as slide:
                row |= {"width": slide.width, "height": slide.height, "mpp": slide.mpp}
                view = survey(slide, settings["quality"])
                row |= slide_quality(view)
                stains, regions = cut_slide(view, slide, slide_id, settings, places, directory)
        except SlideError as error:
            # What was cut before the damage was met.
            shutil.rmtree(directory / "regions" / slide_id, ignore_errors=True)
            rows.append(row | {"reason": str(error), "stain": "", "stain_reason": ""})
            continue
        rows.append(row | stains | {"status": "used", "n_regions": len(regions)})
        frames.append(regions.assign(slide_id=slide_id, case_id=case_id))
    regions = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(REGION_COLUMNS))
    return (
        pd.DataFrame(rows, columns=list(SLIDE_COLUMNS)).astype(SLIDE_COLUMNS),
        regions[list(REGION_COLUMNS)].astype(REGION_COLUMNS),
    )


def cut_slide(
    view: Survey, slide: Slide, slide_id: str, settings: dict, places: pd.DataFrame | None, directory: Path
) -> tuple[dict, pd.DataFrame]:
    """Cut one slide's regions and write its files (see `cut_regions`); returns STAIN_COLUMNS, and the regions.

    `places`: `x, y, side` where a table gives them, else None. Raises SlideError.
    """
    if places is None:
        regions = choose_regions(view, slide, settings)
    else:
        regions = _measured(view, slide, _checked(slide, places, settings), settings)
    stains, reason = _stains(view, slide, regions, settings)
    normalise = normaliser(stains, settings["stain"])
    side_px = settings["side_px"]
    with atomic(directory / f"{slide_id}.u8") as temporary, temporary.open("wb") as file:
        for k, region in enumerate(regions.itertuples(), start=1):
            pixels = normalise(slide.read(region.x, region.y, side_px, region.mpp)[None])[0]
            file.write(pixels.tobytes())
            with atomic(directory / "regions" / slide_id / f"{_label(slide_id, k)}.png") as preview:
                Image.fromarray(pixels).resize((PREVIEW_PX, PREVIEW_PX), Image.Resampling.BOX).save(preview)
    corners = regions[["x", "y"]].to_numpy() * slide.mpp / view.mpp
    with atomic(directory / f"{slide_id}.png") as temporary:
        picture(view, corners, regions["side"].iloc[0] * slide.mpp / view.mpp).save(temporary)
    with atomic(directory / f"{slide_id}.thumbnail.jpg") as temporary:
        Image.fromarray(view.thumbnail).save(temporary)
    return stain_columns(stains, reason), regions


def choose_regions(view: Survey, slide: Slide, settings: dict) -> pd.DataFrame:
    """Up to `per_slide` regions without overlap, the densest in nuclei first, of whole tissue in good quality.

    Nothing is known of the patient here. Candidates lie a quarter of a region apart. Density is the mean concentration
    of haematoxylin (Ruifrok and Johnston's colours) at 8 µm/px; of equal ones the upper left comes first. A slide of
    the size of a region is that region, and is not judged again. Returns the columns of REGION_COLUMNS but the ids;
    raises SlideError when no region will do.
    """
    side = slide.footprint(settings["side_px"], settings["mpp"])
    if max(abs(slide.width / side - 1), abs(slide.height / side - 1)) <= SAME_SIZE:
        return _measured(view, slide, pd.DataFrame({"x": [0], "y": [0], "side": [side]}), settings)
    if not view.tissue.any():
        raise SlideError("no tissue found")
    if side > min(slide.width, slide.height):
        raise SlideError(f"smaller than a region: {slide.width} × {slide.height} px, a region takes {side} px")
    step = max(1, side // STEP)
    x, y = (np.unique([*range(0, length - side, step), length - side]) for length in (slide.width, slide.height))
    grid = pd.DataFrame({"x": np.tile(x, len(y)), "y": np.repeat(y, len(x)), "side": side})
    candidates = _measured(view, slide, grid, settings)
    good = candidates["tissue"] >= settings["min_tissue"] - 1e-9
    if not good.any():
        share = candidates["tissue"].max()
        raise SlideError(f"no region is at least {settings['min_tissue']:.0%} tissue; the best has {share:.0%}")
    thresholds = QUALITY | settings["quality"]
    for what in ("blurred", "pen", "fold", "black"):
        last, good = good, good & (candidates[what] <= thresholds[f"max_{what}"] + 1e-9)
        if not good.any():
            raise SlideError(f"none of the {last.sum()} regions of tissue is free enough of what is {what}")
    chosen: list[pd.Series] = []
    for _, region in candidates[good].sort_values("haematoxylin", ascending=False, kind="stable").iterrows():
        if all(max(abs(region["x"] - other["x"]), abs(region["y"] - other["y"])) >= side for other in chosen):
            chosen.append(region)
        if len(chosen) == settings["per_slide"]:
            break
    return candidates.loc[[region.name for region in chosen]].reset_index(drop=True)


def pack_regions(directories: list[str | Path], slides: pd.DataFrame, side_px: int, regions_path: Path) -> pd.DataFrame:
    """Write the regions of all used slides as one map and return its index.

    Parameters: `directories` as `cut_regions` leaves them, with `slides.parquet` and `regions.parquet`; `slides` as
    `pack.gather_slides` gives it for them. `regions_path` gets uint8 [N, side_px, side_px, 3], row-major and without a
    header: `numpy.memmap(path, "u1", "r", shape=(N, side_px, side_px, 3))`, copied region by region. The index has the
    row numbers `region`, the columns of REGION_COLUMNS, `side_px` and `sha256` of the region's pixels, by which a run
    knows them without reading them again, in the order of the map: by slide id, and in a slide as they were cut.
    Raises InputError when a file is not of the size that its regions take.
    """
    frames = [read_table(Path(directory) / "regions.parquet") for directory in directories]
    regions = pd.concat([frame for frame in frames if len(frame)], ignore_index=True)
    regions = regions.sort_values("slide_id", kind="stable", ignore_index=True)
    used = slides[slides["status"] == "used"]
    number = regions["slide_id"].value_counts()
    region_bytes = side_px**2 * 3
    sums = []
    with atomic(regions_path) as temporary, temporary.open("wb") as file:
        for slide in progress(used.itertuples(), "packing", total=len(used)):
            path = Path(slide.directory) / f"{slide.slide_id}.u8"
            count = int(number.get(slide.slide_id, 0))
            if not path.is_file() or path.stat().st_size != count * region_bytes:
                raise InputError(
                    f"{path}: does not hold the regions of the slide; delete its folder and cut them again"
                )
            with path.open("rb") as source:
                for _ in range(count):
                    pixels = source.read(region_bytes)
                    sums.append(hashlib.sha256(pixels).hexdigest())
                    file.write(pixels)
    regions.insert(0, "region", np.arange(len(regions)))
    regions["side_px"] = side_px
    regions["sha256"] = sums
    return regions


def previews(slides: pd.DataFrame, index: pd.DataFrame) -> pd.DataFrame:
    """What `sheet.contact_sheet` shows of regions: their small pictures, and the slides that were set aside."""
    excluded = slides[slides["status"] == "excluded"]
    folder = index["slide_id"].map(slides.set_index("slide_id")["directory"]) + "/regions/" + index["slide_id"]
    number = index.groupby("slide_id").cumcount() + 1
    names = [_label(slide_id, k) for slide_id, k in zip(index["slide_id"], number, strict=True)]
    shown = pd.DataFrame({"slide_id": names, "status": "used", "reason": "", "directory": folder})
    shown = shown.assign(**{f"{what}_fraction": index[what] for what in ("blurred", "fold", "pen", "black")})
    return pd.concat([shown, excluded[list(shown)]]).sort_values("slide_id", ignore_index=True)


def _label(slide_id: str, k: int) -> str:
    """What a region is called in pictures, where names are short."""
    return f"{short_name(slide_id)}_{k}"


class _Given:
    """A table of regions, asked by slide id."""

    def __init__(self, path: str):
        self._table = read_regions(path)
        self._names = Names(self._table["slide_id"])

    def of(self, slide_id: str) -> pd.DataFrame:
        """`x, y, side` of the slide's regions, none when the table does not name it; raises SlideError when unclear."""
        name = self._names.find(slide_id)
        return self._table.loc[self._table["slide_id"] == name, ["x", "y", "side"]]


def _checked(slide: Slide, places: pd.DataFrame, settings: dict) -> pd.DataFrame:
    """Given regions with their sides; all of them must lie on the slide."""
    footprint = slide.footprint(settings["side_px"], settings["mpp"])
    places = places.assign(side=places["side"].where(places["side"] > 0, footprint)).reset_index(drop=True)
    beyond = (places["x"] + places["side"] > slide.width) | (places["y"] + places["side"] > slide.height)
    if beyond.any():
        x, y, side = places[beyond].iloc[0]
        raise SlideError(
            f"the region at x={x}, y={y} of {settings['from']}, {side} px wide, reaches beyond the slide of "
            f"{slide.width} × {slide.height} px"
        )
    return places


def _measured(view: Survey, slide: Slide, places: pd.DataFrame, settings: dict) -> pd.DataFrame:
    """Regions `x, y, side` with their µm/px and what their areas hold."""
    pixel = view.mpp / slide.mpp
    height, width = view.tissue.shape
    ends = {axis: places[axis] + places["side"] for axis in ("x", "y")}
    left, top = (np.rint(places[axis].to_numpy() / pixel).astype(int) for axis in ("x", "y"))
    right, bottom = (np.rint(ends[axis].to_numpy() / pixel).astype(int) for axis in ("x", "y"))
    left, top = np.minimum(left, width - 1), np.minimum(top, height - 1)
    right, bottom = np.clip(right, left + 1, width), np.clip(bottom, top + 1, height)

    def total(values: np.ndarray) -> np.ndarray:
        area = np.pad(np.cumsum(np.cumsum(values, axis=0, dtype=np.float64), axis=1), ((1, 0), (1, 0)))
        return area[bottom, right] - area[top, right] - area[bottom, left] + area[top, left]

    area, tissue = (right - left) * (bottom - top), total(view.tissue)
    return places.assign(
        mpp=places["side"] * slide.mpp / settings["side_px"],
        tissue=tissue / area,
        blurred=total(view.blurred & view.tissue) / np.maximum(tissue, 1),
        pen=total(view.pen) / area,
        fold=total(view.fold & view.tissue) / np.maximum(tissue, 1),
        black=total(view.black) / area,
        haematoxylin=total(_haematoxylin(view.thumbnail)) / area,
    )


def _haematoxylin(image: np.ndarray) -> np.ndarray:
    """Concentration of haematoxylin, by colours fixed beforehand: float32 [rows, columns] of an image uint8."""
    matrix = START / np.linalg.norm(START, axis=1, keepdims=True)
    out = np.empty(image.shape[:2], np.float32)
    for target, row in zip(out, image, strict=True):  # densities take 24 times the memory of the image
        target[:] = concentrations(DENSITY[row.T], matrix, PENALTY)[0]
    return out


def _stains(view: Survey, slide: Slide, regions: pd.DataFrame, settings: dict) -> tuple[Stains | None, str]:
    """The slide's stains from all its tissue, wherever the regions lie (see `normalise.fit_stains`)."""
    if settings["stain"]["method"] == "none":
        return None, ""
    size, mpp = STAIN_TILE["tile_px"], settings["mpp"]
    try:
        squares = choose_tiles(view, slide, STAIN_TILE | {"mpp": mpp, "quality": settings["quality"]})
    except SlideError:  # given regions may be all that there is
        squares, size, mpp = regions, settings["side_px"], float(regions["mpp"].iloc[0])
    tissue = view.tissue & ~view.pen
    return fit_stains(slide, tissue, view.mpp, squares[["x", "y"]].to_numpy(), size, mpp, settings["stain"])


def _number(text: object) -> float | None:
    """µm/px of a receipt, where its column is not empty."""
    return float(text) if str(text) not in {"", "nan"} else None
