"""Slides, their tiles' places and predictions, for tests of figures that lie over slides."""

import h5py
import numpy as np
import pandas as pd
from PIL import Image

from histofuse.paper.slide_places import Place

SIDE = 100


def grid(columns, rows, every=1):
    x, y = np.meshgrid(np.arange(columns) * SIDE, np.arange(rows) * SIDE)
    return np.stack([x.ravel(), y.ravel()], axis=1)[::every]


def place(coords, thumbnail=None):
    return Place(coords, SIDE, 2000, 1000, 0.5, thumbnail)


def write_slide(folder, slide_id, coords, thumbnail=True, **attributes):
    folder.mkdir(exist_ok=True)
    with h5py.File(folder / f"{slide_id}.h5", "w") as file:
        file["features"] = np.zeros((len(coords), 2), np.float32)
        file["coords"] = coords
        file["coords"].attrs.update(attributes)
    if thumbnail:
        Image.new("RGB", (200, 100), "pink").save(folder / f"{slide_id}.thumbnail.jpg")


def predictions(n=10, classes=None):
    """Test cases C0 … with rising risk and one training case of the highest."""
    frame = pd.DataFrame({"case_id": [f"C{k}" for k in range(n + 1)], "part": ["test"] * n + ["train"]})
    frame["risk"] = np.nan if classes else np.arange(n + 1.0)
    frame["probabilities"] = (
        [np.array([0.5 - 0.04 * k, 0.5 + 0.04 * k]) for k in range(n + 1)] if classes else [None] * (n + 1)
    )
    return frame


def slides_of(cases):
    return pd.DataFrame({"slide_id": [f"{case}-DX1" for case in cases], "case_id": cases})
