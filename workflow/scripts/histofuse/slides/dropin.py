"""Features that TRIDENT or CLAM made of a cohort's slides, in place of encoding them here.

TRIDENT writes one folder per encoder with `{slide_id}.h5` (`features` [n, dim] or [1, n, dim], `coords` [n, 2] with
what they mean as attributes). CLAM writes `h5_files/{slide_id}.h5` (`features`, `coords`) and
`pt_files/{slide_id}.pt` (the features alone).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from histofuse.io import InputError, atomic, progress
from histofuse.slides.naming import Names
from histofuse.slides.pack import UNKNOWN, Features, read_features, unfit
from histofuse.slides.reader import SlideError

# Where files of features lie in a folder, the preferred place first: HDF5 also tells where a tile lies.
PLACES = ("*.h5", "h5_files/*.h5", "*.pt", "pt_files/*.pt")
PICTURE_PX = 256
TILE_COLOUR = (0, 158, 115)
COLUMNS = {
    "slide_id": "str",
    "case_id": "str",
    "status": "str",
    "reason": "str",
    "n_tiles": "Int64",
    "dim": "Int64",
    "side": "Int64",
}


def link_features(cases: pd.DataFrame, folder: str | Path, directory: Path) -> pd.DataFrame:
    """Make a folder of slides, as `encode_slides` leaves it, of features that lie elsewhere; a row per slide.

    Parameters: `cases` (`case_id`, `slides`: the ids of a case's slides), `folder` (as TRIDENT or CLAM wrote it),
    `directory` to write into: for each slide that can be used a link `{slide_id}.h5` or `.pt` to its file and
    `{slide_id}.png`, a picture of where its tiles lie.

    A file belongs to a slide when its name is the slide's id, or when only one of the two carries TCGA's file id
    behind the barcode. A slide without a file, or whose file cannot be used, becomes a row with status "excluded" and
    its reason. The frame has the columns of COLUMNS, by slide id; `side` of a tile in level-0 pixels is -1 where the
    file does not tell it. Every file is read once, whole.

    Raises InputError when the cases name no slides, two of them the same one, the folder holds no features, or the
    files differ in the width of their features.
    """
    slides = cases[["case_id", "slides"]].explode("slides").dropna().sort_values("slides")
    if slides.empty:
        raise InputError(f"features from {folder}: the cohort's cases name no slides that they could belong to")
    if (twice := slides["slides"].duplicated()).any():
        raise InputError(f"slide {slides['slides'][twice].iloc[0]} belongs to more than one case")
    if unsafe := [name for name in slides["slides"] if Path(name).name != name]:
        raise InputError(f"slide {unsafe[0]!r} of the cases is no name of a file")
    found = _assign(slides["slides"].tolist(), find_files(folder), folder)
    directory.mkdir(parents=True, exist_ok=True)
    rows = []
    for row in progress(slides.itertuples(), "features", total=len(slides)):
        slide_id = row.slides
        out = {"slide_id": slide_id, "case_id": row.case_id, "status": "excluded", "reason": "", "n_tiles": 0}
        try:
            path = found[slide_id]
            if isinstance(path, SlideError):
                raise path
            features = read_features(path)
            if problem := unfit(features.values):
                raise SlideError(f"{path.name}: {problem}")
        except (SlideError, InputError) as error:
            rows.append(out | {"reason": str(error)})
            continue
        n, dim = features.values.shape
        rows.append(out | {"status": "used", "n_tiles": n, "dim": dim, "side": features.side})
        _link(directory / f"{slide_id}{path.suffix}", path)
        with atomic(directory / f"{slide_id}.png") as temporary:
            _picture(features).save(temporary)
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    _check_widths(table, folder)
    return table


def find_files(folder: str | Path) -> dict[str, Path]:
    """The files of features in a folder, by their names without suffix; raises InputError when there are none."""
    if not Path(folder).is_dir():
        raise InputError(f"features from {folder}: there is no such folder; give the one that TRIDENT or CLAM wrote")
    found: dict[str, Path] = {}
    for place in reversed(PLACES):
        found |= {path.name.removesuffix(path.suffix): path for path in sorted(Path(folder).glob(place))}
    if not found:
        raise InputError(
            f"features from {folder}: holds no .h5 or .pt files, neither itself nor in h5_files or pt_files; give the "
            "folder that TRIDENT or CLAM wrote features to"
        )
    return found


def _assign(slide_ids: list[str], files: dict[str, Path], folder: str | Path) -> dict[str, Path | SlideError]:
    """Each slide's file, or why it has none. A file that two slides could have is that slide's whose name it bears."""
    names, found = Names(files), {}
    for slide_id in slide_ids:
        try:
            name = names.find(slide_id)
            found[slide_id] = SlideError(f"no features in {folder}") if name is None else name
        except SlideError as error:
            found[slide_id] = error
    wanted = Counter(name for name in found.values() if isinstance(name, str))
    for slide_id, name in found.items():
        if isinstance(name, str):
            own = wanted[name] == 1 or name == slide_id
            unclear = SlideError(f"{files[name].name} in {folder} could be its own or another slide's")
            found[slide_id] = files[name] if own else unclear
    return found


def _check_widths(slides: pd.DataFrame, folder: str | Path) -> None:
    """Features of two encoders cannot be used together, and which of them is meant only the user knows."""
    widths = slides["dim"].value_counts()
    if len(widths) > 1:
        usual, other = (slides.loc[slides["dim"] == width, "slide_id"].iloc[0] for width in widths.index[:2])
        raise InputError(
            f"features from {folder}: those of slide {other} have width {widths.index[1]}, those of slide {usual} (and "
            f"of {widths.iloc[0]} of {widths.sum()} slides) {widths.index[0]}. Keep one encoder's files in the folder"
        )


def _link(link: Path, path: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(path.resolve())


def _picture(features: Features) -> Image.Image:
    """Where the tiles lie, on white; a plain card with their number where the file does not tell it."""
    if (features.coords == UNKNOWN).all():
        card = Image.new("RGB", (PICTURE_PX, PICTURE_PX), "white")
        ImageDraw.Draw(card).text((8, 8), f"{len(features.values)} tiles\nplaces unknown", fill="black")
        return card
    places = features.coords - features.coords.min(axis=0)
    side = max(features.side, _spacing(features.coords))
    zoom = PICTURE_PX / (places.max() + side)
    picture = np.full((PICTURE_PX, PICTURE_PX, 3), 255, np.uint8)
    for left, top in (places * zoom).astype(int):
        extent = max(1, int(side * zoom))
        picture[top : top + extent, left : left + extent] = TILE_COLOUR
    return Image.fromarray(picture)


def _spacing(coords: np.ndarray) -> int:
    """The least step between tiles along an axis, where the file does not tell their side."""
    steps = [np.diff(np.unique(axis)) for axis in coords.T]
    return int(min((step.min() for step in steps if len(step)), default=1))
