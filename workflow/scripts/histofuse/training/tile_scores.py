"""Scores of the tiles of a run's test slides, from its weights: what a heatmap over a slide shows."""

from __future__ import annotations

import numpy as np
import pandas as pd

from histofuse.io import InputError, progress
from histofuse.training.dataset import Split
from histofuse.training.heads import Head
from histofuse.training.run import make_head, trained_model

# What a tile's outputs become, by the loss. Every one of them is linear in the outputs, so that a slide's own figure
# stays the weighted mean of its tiles'.
SCORES = {"cox": "log_hazard", "discrete": "log_odds_of_death", "cross_entropy": "log_odds_of_class"}


def tile_scores(
    model_class: type,
    entry: dict,
    task: dict,
    split: Split,
    weights: dict[str, np.ndarray],
    predictions: pd.DataFrame,
    threads: int = 1,
) -> pd.DataFrame:
    """Score every tile of the test part's slides that the model is given.

    Args:
        model_class: a torch module with `tile_scores` (see `histofuse.models.registry`); entry: its resolved config
            entry; task: its config entry.
        split: assembled as for the run. weights: as the run saved them. predictions: the run's, `case_id` and, for a
            classification, `probabilities`. threads: that torch may use.
    Returns: `slide_id, case_id, part, tile` (position among the slide's `stored` tiles), `count` (how often the bag
        holds the tile) and a column per score. Scores with one value per tile keep their names. `output` becomes
        `log_hazard` (Cox), `log_odds_of_death` (discrete hazards; the mean over the intervals) or `log_odds_of_class`
        (of the class predicted for the case against each other class; the mean over those). It is relative to the
        average slide of the training part: 0 says no more than such a slide does.
    Raises InputError when the class has no tile scores, they are not what they should be, or the weights do not fit.
    """
    store = split.bags.get("tiles")
    if store is None or not hasattr(model_class, "tile_scores"):
        what = "takes no tiles" if store is None else "has no method tile_scores"
        raise InputError(f"heatmaps: {model_class.__name__} {what}; take it off the table's `heatmaps`")
    head = make_head(entry, task, split)
    score = _scorer(model_class, entry, split, head, weights, threads)
    classes = None
    if head.kind == "classification":
        classes = predictions.set_index("case_id")["probabilities"].map(np.argmax)
    average, frames = _average_slide(score, split), []
    for row in progress(split.part("test"), "test slides"):
        slide, case = split.rows.loc[row, ["slide_id", "case_id"]]
        scores = score(row)
        outputs = scores.pop("output", None)
        if outputs is not None:
            scores[SCORES[head.name]] = _reduce(outputs - average, head, classes, case)
        about = {"slide_id": slide, "case_id": case, "part": "test", "tile": store.given(slide).astype(np.int32)}
        about |= {"stored": np.int32(store.index.at[slide, "n_tiles"]), "count": store.count(slide)}
        frames.append(pd.DataFrame(about | scores))
    return pd.concat(frames, ignore_index=True)


def _of_tiles(values: np.ndarray, place: np.ndarray, attention: bool) -> np.ndarray:
    """[place, …] of a map → [tile, …]: attention adds up over a tile's copies, other scores are averaged."""
    total = np.zeros((place.max() + 1, *values.shape[1:]), dtype=np.float64)
    np.add.at(total, place, values)
    copies = np.bincount(place).reshape(-1, *[1] * (values.ndim - 1))
    return (total if attention else total / copies).astype(np.float32)


def _scorer(model_class: type, entry: dict, split: Split, head: Head, weights: dict[str, np.ndarray], threads: int):
    """row → {name: float32 [tile] or, of `output`, [tile, outputs]}, one slide in memory at a time."""
    import torch

    from histofuse.training.loop import Batches, choose_device

    torch.set_num_threads(threads)
    model, store = trained_model(model_class, entry, split, head, weights), split.bags["tiles"]
    batches = Batches(split, choose_device())

    @torch.inference_mode()
    def score(row: int) -> dict[str, np.ndarray]:
        batch = batches.to_predict(np.array([row]))
        place = store.place(split.rows.at[row, "slide_id"])
        n = batch["tiles"].shape[1] if place is None else len(place)
        scores = {name: values[0].float().cpu().numpy() for name, values in model.tile_scores(batch).items()}
        for name, values in scores.items():
            expected = (n, head.outputs) if name == "output" else (n,)
            if values.shape != expected or not np.isfinite(values).all():
                raise InputError(
                    f"{model_class.__name__}.tile_scores: {name!r} must be finite and of shape {(1, *expected)} "
                    f"for a slide of {n} {'tiles' if place is None else 'places'}"
                )
            if place is not None:
                scores[name] = _of_tiles(values, place, name.startswith("attention"))
        if "output" in scores and "attention" not in scores:
            raise InputError(f"{model_class.__name__}.tile_scores: 'output' needs 'attention', by which it is weighted")
        return scores

    return score


def _average_slide(score, split: Split) -> np.ndarray | None:
    """Mean over the training part's slides of the image's part of the outputs: float64 [outputs]; None without any."""
    parts = []
    for row in progress(split.part("train"), "training slides"):
        scores = score(row)
        if "output" not in scores:
            return None
        parts.append(scores["attention"].astype(np.float64) @ scores["output"])
    return np.mean(parts, axis=0)


def _reduce(outputs: np.ndarray, head: Head, classes: pd.Series | None, case: str) -> np.ndarray:
    """[tile, outputs] → float32 [tile], as SCORES says."""
    if classes is None:
        return outputs.mean(axis=1).astype(np.float32)  # of the one log hazard, or of the intervals' log odds
    chosen = classes[case]
    others = np.delete(outputs, chosen, axis=1)
    return (outputs[:, chosen] - others.mean(axis=1)).astype(np.float32)
