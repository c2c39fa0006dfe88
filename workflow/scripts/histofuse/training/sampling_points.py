"""Points that a run's attention reads on the maps of its test slides, each with the tile that lies there."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from histofuse.io import InputError, progress
from histofuse.training.dataset import Split
from histofuse.training.run import make_head, trained_model


def sampling_points(
    model_class: type, entry: dict, task: dict, split: Split, weights: dict[str, np.ndarray], threads: int = 1
) -> pd.DataFrame:
    """Where the attention of a run reads the test part's slides.

    Args:
        model_class: a torch module with `sampling_points` (see `histofuse.models.registry`); entry: its resolved
            config entry; task: its config entry.
        split: assembled as for the run. weights: as the run saved them. threads: that torch may use.
    Returns: a row per slide, `name` of an attention, `head` and `point`: `slide_id, case_id, part`; `column` and `row`
        on the map, 0 the middle of the first; `attention`, which sums to 1 over all points of a slide and name;
        `tile`, the position among the slide's `stored` tiles of the one at the nearest place, −1 for a point off the
        map: one whose nearest place would be.
    Raises InputError when the class has no such method, its tiles are no square map, the points are not what they
    should be, or the weights do not fit.
    """
    store = split.bags.get("tiles")
    if store is None or not hasattr(model_class, "sampling_points"):
        what = "takes no tiles" if store is None else "has no method sampling_points"
        raise InputError(f"sampling_points: {model_class.__name__} {what}; take it off the table's `sampling_points`")
    if store.order is None or (side := math.isqrt(store.bag)) ** 2 != store.bag:
        raise InputError(
            f"sampling_points: {model_class.__name__} reads tiles that are no square map; give its input `tiles` an "
            "`order` and a square `bag`"
        )
    read = _reader(model_class, entry, task, split, weights, threads)
    frames = []
    for row in progress(split.part("test"), "test slides"):
        slide, case = split.rows.loc[row, ["slide_id", "case_id"]]
        given, place = store.given(slide), store.place(slide)
        for name, (at, attention) in read(row).items():
            head, point = (index.ravel() for index in np.indices(attention.shape))
            column, line = at.reshape(-1, 2).T
            nearest = np.rint(at.reshape(-1, 2)).astype(np.int64)
            on_map = ((nearest >= 0) & (nearest < side)).all(axis=1)
            x, y = nearest.clip(0, side - 1).T
            tile = np.where(on_map, given[place[y * side + x]], -1)
            about = {"slide_id": slide, "case_id": case, "part": "test", "name": name, "head": head, "point": point}
            values = {"column": column, "row": line, "attention": attention.ravel() / len(attention)}
            stored = int(store.index.at[slide, "n_tiles"])
            frames.append(pd.DataFrame(about | values | {"tile": tile.astype(np.int32), "stored": np.int32(stored)}))
    return pd.concat(frames, ignore_index=True)


def _reader(model_class: type, entry: dict, task: dict, split: Split, weights: dict[str, np.ndarray], threads: int):
    """row → {name: (float32 [head, point, 2], float32 [head, point])}, one slide in memory at a time."""
    import torch

    from histofuse.training.loop import Batches, choose_device

    torch.set_num_threads(threads)
    model = trained_model(model_class, entry, split, make_head(entry, task, split), weights)
    batches = Batches(split, choose_device())

    @torch.inference_mode()
    def read(row: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        found = {}
        for name, points in model.sampling_points(batches.to_predict(np.array([row]))).items():
            at, attention = (values[0].float().cpu().numpy() for values in points)
            if attention.ndim != 2 or at.shape != (*attention.shape, 2) or not np.isfinite(at).all():
                raise InputError(
                    f"{model_class.__name__}.sampling_points: {name!r} must be finite points [batch, head, point, 2] "
                    f"with attention [batch, head, point], not {(1, *at.shape)} with {(1, *attention.shape)}"
                )
            found[name] = at, attention
        return found

    return read
