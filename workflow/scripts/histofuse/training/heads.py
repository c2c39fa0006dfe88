"""What ties a model's outputs to its task: how many there are, their loss, and the predictions that they mean."""

from __future__ import annotations

import numpy as np
import pandas as pd

from histofuse.evaluation.predictions import COLUMNS
from histofuse.io import InputError
from histofuse.training.dataset import Split, Target
from histofuse.training.survival import breslow_survival, discrete_survival, interval_cuts, time_grid, to_interval

LOSSES = {"survival": ("cox", "discrete"), "classification": ("cross_entropy",)}
# How log hazards of a row's crops become the row's, and, as pandas names or takes it, those of a case's rows (slides or
# regions) the case's.
OF_CROPS = {"mean": np.mean, "median": np.median}
OF_ROWS = {"mean": "mean", "max": "max", "second_highest": lambda values: np.sort(values)[-2:][0]}


class Head:
    """What ties a model's outputs to the task: how many there are, their loss, and the predictions they mean."""

    def __init__(self, train: Target, loss: dict, aggregate: dict[str, str] | None = None, cases: Target | None = None):
        """What the training part says of a task.

        Args:
            train: of each training row, by which classes are weighted. cases: of each training case once, by which
                time is cut into intervals and survival curves get their times, so that they are the same for every
                model of a split; `train` where rows are cases. aggregate: names of OF_CROPS and OF_ROWS under "crops"
                and "rows"; means, or with Cox's loss others.
        """
        self.kind, self.train = train.kind, train
        self.cases = train if cases is None else cases
        self.aggregate = {"crops": "mean", "rows": "mean"} | (aggregate or {})
        self.loss = dict(loss)
        self.name = self.loss.pop("name")
        if self.name not in LOSSES[self.kind]:
            raise InputError(
                f"loss: {self.name!r} does not fit a {self.kind} task; choose {' or '.join(LOSSES[self.kind])}"
            )
        for key, known in (("crops", OF_CROPS), ("rows", OF_ROWS)):
            name = self.aggregate[key]
            if name not in known or (name != "mean" and self.name != "cox"):
                fits = ", ".join(known) if self.name == "cox" else f"only mean with {self.name}"
                raise InputError(f"aggregate: {key}: {name!r} does not do here; choose {fits}")
        if self.name == "discrete":
            self.cuts = interval_cuts(self.cases.time, self.cases.event, self.loss.pop("intervals", 4))
        self.outputs = {
            "cox": 1,
            "discrete": len(getattr(self, "cuts", [])) + 1,
            "cross_entropy": train.classes,
        }[self.name]

    def torch_loss(self, split: Split, rule: str | None = None):
        """The objective of a run, with the targets already on the model's device; see `training.objective`.

        rule: of its modulation.
        """
        from histofuse.training import objective
        from histofuse.training.loop import choose_device
        from histofuse.training.losses import class_weights

        device, target = choose_device(), split.target
        if self.name == "cox":
            return objective.cox(target, device, rule, **self.loss)
        if self.name == "discrete":
            return objective.discrete(target, to_interval(target.time, self.cuts), device, rule)
        return objective.classes(target, class_weights(self.train.label, self.train.classes), device, rule)

    def criterion(self, split: Split):
        """(outputs of some rows or of their crops, row numbers) → Harrell C or macro AUC of their cases.

        The larger the better. The function raises `Undefined` where these cases have no such figure.
        """
        from histofuse.evaluation.classification import macro_auc
        from histofuse.evaluation.survival import harrell_c

        target, case_id = split.target, split.rows["case_id"].to_numpy()

        def score(outputs: np.ndarray, rows: np.ndarray) -> float:
            case = pd.factorize(case_id[rows])[0]
            first = rows[np.unique(case, return_index=True)[1]]
            if self.kind == "classification":
                return macro_auc(target.label[first], mean_by(_of_output(case, outputs), softmax(outputs)))
            return harrell_c(self._of_units(outputs, case), target.time[first], target.event[first])

        return score

    def risk(self, outputs: np.ndarray) -> np.ndarray:
        """[row]: the log hazard, or −Σ_k S_k of discrete hazards; the higher, the earlier the death."""
        if self.name == "cox":
            return outputs.reshape(len(outputs))
        return -np.cumprod(1 - sigmoid(outputs), axis=1).sum(axis=1)

    def risk_of_parts(self, parts: dict[str, np.ndarray], split: Split) -> dict[str, np.ndarray]:
        """{risk_branch: float64 [case]}: what each branch alone says of the cases of `predictions`; survival only."""
        if self.kind == "classification":
            return {}
        case = pd.factorize(split.rows["case_id"])[0]
        return {f"risk_{name}": self._of_units(outputs, case) for name, outputs in parts.items()}

    def predictions(
        self, outputs: np.ndarray, split: Split, number: int, seed: int, train: pd.DataFrame | None = None
    ) -> pd.DataFrame:
        """One row per case: the mean over its slides of risk and survival curve, or of class probabilities.

        outputs: [row, output], or [row · crop, output] when several crops stand for each row, row by row. Means are
        over crops, then rows; log hazards may be put together in another way (`aggregate`).
        train: predictions of the training cases, of which the baseline hazard is, when the split does not hold them.
        """
        frame, case = self._frame(outputs, split, number, seed, "case_id")
        if self.kind == "classification":
            return frame
        times = time_grid(self.cases.time, self.cases.event)
        if self.name == "cox":
            train = frame[frame["part"] == "train"] if train is None else train
            curves = breslow_survival(
                train["risk"].to_numpy(),
                train["time_days"].to_numpy(),
                train["event"].to_numpy(np.int64),
                frame["risk"].to_numpy(),
                times,
            )
        else:
            curves = discrete_survival(sigmoid(outputs), self.cuts, self.cases.time.max(), times)
            curves = mean_by(_of_output(case, outputs), curves)
        frame["survival_times"] = [times] * len(frame)
        frame["survival"] = list(curves)
        return frame

    def slide_predictions(self, outputs: np.ndarray, split: Split, number: int, seed: int) -> pd.DataFrame:
        """One row per slide, as `predictions` has one per case, and `slide_id`; no row where rows are cases.

        Risks and probabilities are float32 and there are no survival curves: no metric per slide reads any.
        """
        if "slide_id" not in split.rows:
            return pd.DataFrame(columns=[*COLUMNS, "slide_id"])
        frame, _ = self._frame(outputs, split, number, seed, "slide_id")
        frame["risk"] = frame["risk"].astype(np.float32)
        if self.kind == "classification":
            frame["probabilities"] = [values.astype(np.float32) for values in frame["probabilities"]]
        return frame

    def _frame(
        self, outputs: np.ndarray, split: Split, number: int, seed: int, unit: str
    ) -> tuple[pd.DataFrame, np.ndarray]:
        """Predictions per `unit` (a column of the split's rows), curves left empty, and the unit's number per row."""
        rows, target = split.rows, split.target
        frame = pd.DataFrame(
            {
                "case_id": rows["case_id"],
                "part": rows["part"],
                "split": number,
                "seed": seed,
                "time_days": target.time,
                "event": pd.array(target.event, dtype="Int8"),
                "label": pd.array(target.label, dtype="Int64") if len(target.label) else pd.NA,
            }
        ).assign(**({} if unit == "case_id" else {unit: rows[unit]}))
        of = pd.factorize(rows[unit])[0]
        frame = frame[~rows[unit].duplicated().to_numpy()].reset_index(drop=True)
        classes = self.kind == "classification"
        frame["risk"] = np.nan if classes else self._of_units(outputs, of)
        frame["survival_times"], frame["survival"] = None, None
        frame["probabilities"] = list(mean_by(_of_output(of, outputs), softmax(outputs))) if classes else None
        return frame, of

    def _of_units(self, outputs: np.ndarray, of: np.ndarray) -> np.ndarray:
        """Risk [unit] from outputs [row · crop, output] and the number of each row's unit, a case or a slide."""
        risk = self._of_crops(self.risk(outputs), len(of))
        return pd.Series(risk).groupby(of).agg(OF_ROWS[self.aggregate["rows"]]).to_numpy()

    def _of_crops(self, risk: np.ndarray, rows: int) -> np.ndarray:
        """[row · crop] → [row]"""
        return OF_CROPS[self.aggregate["crops"]](risk.reshape(rows, -1), axis=1)


def _of_output(of_row: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """The unit's number per output, from that per row; rows have equally many crops, so the mean of all is the same."""
    return of_row.repeat(len(outputs) // len(of_row))


def mean_by(group: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mean of rows per group number (0 … max): [row, k] → [group, k]."""
    total = np.zeros((group.max() + 1, values.shape[1]))
    np.add.at(total, group, values)
    return total / np.bincount(group)[:, None]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -60, 60)))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)
