"""From a slide to features on one core: coordinates, stains, and what all of it costs beside the encoder.

Processor time, which other work on the machine disturbs least.
"""

import time
import warnings

import numpy as np
import pytest
import tifffile
import torch
from large_slide import MPP, write_large_slide

from histofuse.slides.encoders import load_encoder
from histofuse.slides.features import encode_slide
from histofuse.slides.normalise import fit_stains, normaliser
from histofuse.slides.quality import survey
from histofuse.slides.reader import open_slide
from histofuse.slides.tiles import choose_tiles

N_TILES = 1500
SETTINGS = {
    "mpp": MPP,
    "tile_px": 224,
    "min_tissue": 0.5,
    "quality": {"max_blurred": 1.0},  # the generator repeats its tiles: what it draws has seams, not focus
    "max_tiles": N_TILES,
    "mpp_overrides": {},
    "keep_tiles": False,
    "stain": {"method": "vahadane", "target": "default", "pixels": 100_000, "seed": 0, "fallback": "none"},
    "encoder": "resnet50-stage3",
    "weights": "random",
    "batch": 64,
}


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return write_large_slide(tmp_path_factory.mktemp("large") / "large.svs")


def spent(function):
    """Seconds of processor time, and what the function returned."""
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def test_coordinates_against_decoding_the_slide_once(large):
    """Survey and choice of tiles on 20,480² px, against nothing but decoding the full resolution."""
    with tifffile.TiffFile(large.path) as file:
        page = file.pages[0]
        raw = [file.filehandle.seek(offset) and file.filehandle.read(count) for offset, count in
               zip(page.dataoffsets, page.databytecounts, strict=True)]  # fmt: skip

        def decode():
            for index, data in enumerate(raw):
                page.decode(data, index, jpegtables=page.jpegtables)

        def choose():
            with open_slide(large.path) as slide:
                return choose_tiles(survey(slide, SETTINGS["quality"]), slide, SETTINGS)

        choose()
        rounds = [(spent(choose), spent(decode)) for _ in range(3)]
    ours, reference = (float(np.median([pair[k][0] for pair in rounds])) for k in range(2))
    n = len(rounds[0][0][1])
    print(f"\ncoordinates of {n} tiles: {ours:.2f} s against {reference:.2f} s of decoding, {reference / ours:.1f} ×")
    assert ours < reference


def test_vahadane_against_staintools(large):
    """Tiles of one slide normalised, against staintools, which learns the stains of every tile for a second."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import staintools
    with open_slide(large.path) as slide:
        seen = survey(slide, SETTINGS["quality"])
        coords = choose_tiles(seen, slide, SETTINGS)[["x", "y"]].to_numpy()
        options = SETTINGS["stain"]
        learnt, (stains, reason) = spent(lambda: fit_stains(slide, seen.tissue, seen.mpp, coords, 224, MPP, options))
        assert reason == ""
        tiles = np.concatenate([tiles for _, tiles in slide.tiles(coords[:600], 224, MPP)])
    normalise = normaliser(stains, options)
    applied = min(spent(lambda: normalise(tiles))[0] for _ in range(3)) / len(tiles)
    reference = staintools.StainNormalizer("vahadane")
    reference.fit(tiles[0])
    slow = spent(lambda: [reference.transform(tile) for tile in tiles[1:4]])[0] / 3
    print(
        f"\nVahadane: learnt in {learnt:.1f} s (moving {stains.moved_degrees:.4f} degrees at the end), applied at "
        f"{1 / applied:.0f} tiles/s against {1 / slow:.2f} of staintools, {slow / applied:.0f} ×"
    )
    assert slow / applied > 1000


def test_a_slide_costs_little_more_than_its_encoder(large, tmp_path):
    """Mask, coordinates, stains, reading, pictures and files beside the encoder's own time for the same tiles."""
    torch.set_num_threads(1)
    encoder = load_encoder(SETTINGS)
    rng = np.random.default_rng(0)
    some = np.clip(rng.normal(170, 40, (320, 224, 224, 3)), 0, 255).astype(np.uint8)

    def own():
        return spent(lambda: encoder.encode_all([some]))[0] / len(some)

    own()
    before = own()
    whole, row = spent(lambda: encode_slide(large.path, "large", SETTINGS, encoder, tmp_path))
    assert (row["status"], row["n_tiles"]) == ("used", N_TILES)
    alone = (before + own()) / 2 * N_TILES
    print(
        f"\nmask to features: {N_TILES / whole:.1f} tiles/s against {N_TILES / alone:.1f} of the encoder alone, "
        f"{alone / whole:.1%}; it says {row['encoder_share']:.1%} itself"
    )
    assert alone / whole > 0.95
