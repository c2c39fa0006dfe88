"""Scores of the tiles of a run's test slides, from its weights: what a heatmap over a slide shows."""

from __future__ import annotations

import numpy as np
import pandas as pd

from histofuse.io import InputError, progress
from histofuse.training.dataset import Split
from histofuse.training.heads import Head
from histofuse.training.run import make_head

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
    """Score every stored tile of the test part's slides.

    Args:
        model_class: a torch module with `tile_scores` (see `histofuse.models.registry`); entry: its resolved config
            entry; task: its config entry.
        split: assembled as for the run. weights: as the run saved them. predictions: the run's, `case_id` and, for a
            classification, `probabilities`. threads: that torch may use.
    Returns: `slide_id, case_id, part, tile` (position among the slide's stored tiles), `count` (how often the bag holds
        the tile) and a column per score. Scores with one value per tile keep their names. `output` becomes
        `log_hazard` (Cox), `log_odds_of_death` (discrete hazards; the mean over the intervals) or `log_odds_of_class`
        (of the class predicted for the case against each other class; the mean over those). It is relative to the
        average slide of the training part: 0 says no more than such a slide does.
    Raises InputError when the class has no tile scores, they are not what they should be, or the weights do not fit.
    """
    if split.tiles is None or not hasattr(model_class, "tile_scores"):
        what = "takes no tiles" if split.tiles is None else "has no method tile_scores"
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
        count = split.tiles.count(slide)
        about = {"slide_id": slide, "case_id": case, "part": "test", "tile": split.tiles.places(slide).astype(np.int32)}
        frame = pd.DataFrame(about | {"count": count} | scores)
        frames.append(_copies_as_one(frame) if split.tiles.order else frame)
    return pd.concat(frames, ignore_index=True)


def _copies_as_one(frame: pd.DataFrame) -> pd.DataFrame:
    """A row per tile of a bag that was laid out in full: attention adds up over copies, scores are averaged."""
    keys = ["slide_id", "case_id", "part", "tile"]
    added = {name: "sum" for name in frame if name == "count" or name.startswith("attention")}
    how = {name: added.get(name, "mean") for name in frame if name not in keys}
    return frame.groupby(keys, as_index=False, sort=True).agg(how)


def _scorer(model_class: type, entry: dict, split: Split, head: Head, weights: dict[str, np.ndarray], threads: int):
    """row → {name: float32 [tile] or, of `output`, [tile, outputs]}, one slide in memory at a time."""
    import torch

    from histofuse.training.loop import Batches, choose_device

    torch.set_num_threads(threads)
    device = choose_device()
    model = model_class(split.shapes, head.outputs, **entry.get("params", {}))
    learnt = {name: torch.from_numpy(values) for name, values in weights.items() if not name.startswith("scaling.")}
    try:
        model.load_state_dict(learnt)
    except RuntimeError as error:
        raise InputError(
            f"the weights do not fit {model_class.__name__} on this split ({error}); train again"
        ) from error
    model.to(device).eval()
    batches = Batches(split, device)

    @torch.inference_mode()
    def score(row: int) -> dict[str, np.ndarray]:
        batch = batches(np.array([row]))
        n = batch["tiles"].shape[1]
        scores = {name: values[0].float().cpu().numpy() for name, values in model.tile_scores(batch).items()}
        for name, values in scores.items():
            expected = (n, head.outputs) if name == "output" else (n,)
            if values.shape != expected or not np.isfinite(values).all():
                raise InputError(
                    f"{model_class.__name__}.tile_scores: {name!r} must be finite and of shape {(1, *expected)} "
                    f"for a slide of {n} tiles"
                )
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
