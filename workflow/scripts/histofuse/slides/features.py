"""From a slide file to features on disk: survey, tiles, stains, encoding, and a picture to check them by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from PIL import Image

from histofuse.bags import repeat_index
from histofuse.io import InputError, atomic, progress
from histofuse.slides.encoders import Encoder
from histofuse.slides.normalise import (
    STAIN_COLUMNS,
    check_target,
    fit_stains,
    stain_attributes,
    stain_columns,
)
from histofuse.slides.picture import picture
from histofuse.slides.quality import slide_quality, survey
from histofuse.slides.reader import UM_PER_PX_AT_1X, Slide, SlideError, open_slide
from histofuse.slides.stream import Readers, stream_tiles
from histofuse.slides.tiles import choose_tiles

# The longer side of the plain thumbnail, at most.
THUMBNAIL_PX = 2048
COLUMNS = {
    "slide_id": "str",
    "case_id": "str",
    "status": "str",
    "reason": "str",
    "format": "str",
    "width": "Int64",
    "height": "Int64",
    "mpp": "float64",
    "n_tiles": "Int64",
    # Shares: of the slide's area, but blurred and fold of its tissue.
    **{f"{name}_fraction": "float64" for name in ("tissue", "blurred", "pen", "fold", "black")},
    **STAIN_COLUMNS,
    # Share of the time from the first tile to the last that the encoder computed, not waiting for tiles.
    "encoder_share": "float64",
}


def encode_slides(
    receipt: pd.DataFrame, settings: dict, encoder: Encoder, directory: Path, readers: Readers | None = None
) -> pd.DataFrame:
    """Encode all slides of a receipt (`path, filename, case_id`, maybe `mpp`) into `directory`; a row per slide.

    A slide that cannot be used becomes a row with status "excluded" and its reason. The frame has the columns
    of COLUMNS, in the receipt's order.
    """
    slide_ids = [Path(name).stem for name in receipt["filename"]]
    if twice := sorted({i for i in slide_ids if slide_ids.count(i) > 1}):
        raise InputError(f"the receipt names slide {twice[0]} more than once; keep one row per slide")
    check_target(settings["stain"])
    overrides = stated_resolutions(receipt, slide_ids) | settings["mpp_overrides"]
    rows = []
    slides = zip(receipt["path"], slide_ids, receipt["case_id"], strict=True)
    for path, slide_id, case_id in progress(slides, "slides", total=len(receipt)):
        row = encode_slide(path, slide_id, settings | {"mpp_overrides": overrides}, encoder, directory, readers)
        rows.append(row | {"case_id": case_id})
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def stated_resolutions(receipt: pd.DataFrame, slide_ids: Iterable[str]) -> dict[str, float]:
    """µm per pixel of the slides whose source says it beside the file, by slide id; such files say nothing of it."""
    stated = receipt["mpp"] if "mpp" in receipt else [""] * len(receipt)
    return {slide: float(mpp) for slide, mpp in zip(slide_ids, stated, strict=True) if mpp not in ("", None)}


def encode_slide(
    path: str | Path, slide_id: str, settings: dict, encoder: Encoder, directory: Path, readers: Readers | None = None
) -> dict:
    """Encode one slide: writes its features, picture and thumbnail into `directory` and returns its row.

    Files: `{slide_id}.h5`, `{slide_id}.png` (tissue, tiles and what was left out), `{slide_id}.thumbnail.jpg`, and with
    `keep_tiles` `{slide_id}.tiles.h5`.

    Settings: `mpp` and `tile_px` of a tile, `min_tissue` (smallest share of tissue in a tile), `quality` (thresholds;
    see quality.py), `max_tiles` (more are thinned by an even stride), `mpp_overrides` (slide id to µm/px where a file
    is silent or wrong), `stain` (`method`, `target`, `pixels`, `seed`, `fallback`: how tiles are normalised before they
    are encoded), `keep_tiles`. `readers` read tiles ahead of the encoder; without them this process reads.
    The row has the keys of COLUMNS but `case_id`; status is "used" or "excluded".
    """
    row = {"slide_id": slide_id, "status": "excluded", "n_tiles": 0}
    row |= dict.fromkeys(("reason", "format", "stain", "stain_reason"), "")
    size, mpp, options = settings["tile_px"], settings["mpp"], settings["stain"]
    files = _Files(directory, slide_id)
    try:
        with open_slide(path, settings["mpp_overrides"].get(slide_id)) as slide:
            row |= {"format": slide.format, "width": slide.width, "height": slide.height, "mpp": slide.mpp}
            seen = survey(slide, settings["quality"])
            row |= slide_quality(seen)
            coords = choose_tiles(seen, slide, settings)[["x", "y"]].to_numpy()
            # A bag larger than max_tiles would skip the others anyway, so they are never encoded.
            coords = coords[repeat_index(len(coords), min(len(coords), settings["max_tiles"]))]
            stains, reason = fit_stains(slide, seen.tissue, seen.mpp, coords, size, mpp, options)
            row |= stain_columns(stains, reason)
            tiles = stream_tiles(slide, path, coords, size, mpp, stains, options, readers or Readers())
            if settings["keep_tiles"]:
                tiles = _kept(tiles, files.tiles, len(coords), size)
            features, row["encoder_share"] = encoder.encode_all(tiles)
            if not np.isfinite(features).all():
                raise SlideError("the encoder gave values that are not finite")
            notes = stain_attributes(stains, reason, options)
            _write_features(files.features, slide_id, slide, coords, features, notes, settings, encoder)
            side = slide.footprint(size, mpp) * slide.mpp / seen.mpp
            corners = coords * slide.mpp / seen.mpp
        files.write_pictures(seen, corners, side)
    except SlideError as error:
        files.remove()
        return row | {"reason": str(error)}
    return row | {"status": "used", "n_tiles": len(coords)}


class _Files:
    """What a slide leaves in its folder."""

    def __init__(self, directory: Path, slide_id: str):
        self.features, self.tiles = directory / f"{slide_id}.h5", directory / f"{slide_id}.tiles.h5"
        self.picture, self.thumbnail = directory / f"{slide_id}.png", directory / f"{slide_id}.thumbnail.jpg"

    def write_pictures(self, seen, corners: np.ndarray, side: float) -> None:
        with atomic(self.picture) as temporary:
            picture(seen, corners, side).save(temporary)
        with atomic(self.thumbnail) as temporary:
            plain = Image.fromarray(seen.thumbnail)
            plain.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
            plain.save(temporary, "JPEG", quality=85)

    def remove(self) -> None:
        """A slide that turned out to be damaged leaves nothing that looks usable."""
        for path in (self.features, self.tiles, self.picture, self.thumbnail):
            path.unlink(missing_ok=True)


def _kept(tiles: Iterator[np.ndarray], path: Path, n: int, size: int) -> Iterator[np.ndarray]:
    """Pass tiles on and write them to HDF5 as they come: `tiles` uint8 [n, size, size, 3], one chunk per tile."""
    with atomic(path) as temporary, h5py.File(temporary, "w") as file:
        shape = (n, size, size, 3)
        kept = file.create_dataset("tiles", shape, np.uint8, chunks=(1, *shape[1:]), compression="lzf", shuffle=True)
        first = 0
        for part in tiles:
            kept[first : first + len(part)] = part
            first += len(part)
            yield part


def _write_features(
    path: Path,
    slide_id: str,
    slide: Slide,
    coords: np.ndarray,
    features: np.ndarray,
    notes: dict,
    settings: dict,
    encoder: Encoder,
) -> None:
    """HDF5 as TRIDENT writes it: `features` [n, dim], `coords` [n, 2], and their meaning as attributes.

    `notes` are more attributes of the features.
    """
    tile_px, mpp = settings["tile_px"], settings["mpp"]
    with atomic(path) as temporary, h5py.File(temporary, "w") as file:
        dataset = file.create_dataset("features", data=features)
        dataset.attrs.update({"name": slide_id, "encoder": encoder.name, "encoder_sha256": encoder.digest} | notes)
        dataset = file.create_dataset("coords", data=coords)
        dataset.attrs.update(
            {
                "patch_size": tile_px,
                "patch_size_level0": slide.footprint(tile_px, mpp),
                "level0_magnification": round(UM_PER_PX_AT_1X / slide.mpp),
                "target_magnification": round(UM_PER_PX_AT_1X / mpp, 2),
                "overlap": 0,
                "name": slide_id,
                "level0_width": slide.width,
                "level0_height": slide.height,
                "level0_mpp": slide.mpp,
                "target_mpp": mpp,
            }
        )
