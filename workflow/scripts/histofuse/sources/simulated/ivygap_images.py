"""H&E images of the simulated IvyGAP as the Allen Institute serves them: plain JPEGs and the list of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image as Picture

from histofuse.sources.simulated.cohort import Case
from histofuse.sources.simulated.ivygap import Image
from histofuse.sources.simulated.settings import Settings
from histofuse.sources.simulated.slides import MPP, look_of, render

JPEG_QUALITY = 85
WIDTHS = (0.9, 1.3)  # of `slide_pixels`


def write_image(tumour: Case, image: Image, settings: Settings, path: Path) -> tuple[int, int]:
    """Write the image without pyramid and without resolution; return its width and height."""
    rng = np.random.default_rng([settings.seed, image.number])
    pixels = render(look_of(tumour), int(settings.slide_pixels * rng.uniform(*WIDTHS)), rng)
    Picture.fromarray(pixels).save(path, "JPEG", quality=JPEG_QUALITY)
    return pixels.shape[1], pixels.shape[0]


def list_of_images(sizes: Mapping[Image, tuple[int, int]]) -> dict:
    """The API's answer: a data set per sub-block, its specimen and its images with resolution and size."""
    data_sets: dict[int, dict] = {}
    for image, (width, height) in sizes.items():
        block = image.sub_block
        data_set = data_sets.setdefault(
            block.number,
            {
                "id": block.number + 5_000_000,
                "failed": False,
                "specimen_id": block.number,
                "specimen": {"id": block.number, "external_specimen_name": block.name, "name": block.name},
                "sub_images": [],
            },
        )
        data_set["sub_images"].append(
            {
                "id": image.number,
                "data_set_id": data_set["id"],
                "failed": False,
                "height": height,
                "width": width,
                "resolution": MPP,
                "section_number": image.section,
            }
        )
    listed = list(data_sets.values())
    return {"success": True, "id": 0, "start_row": 0, "num_rows": len(listed), "total_rows": len(listed), "msg": listed}
