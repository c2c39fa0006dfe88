"""Cox and multinomial logistic regression: the rows that a deep model has to beat.

Both are fitted by kept libraries (scikit-survival, scikit-learn); this file only adds what they share here: some
blocks under a penalty and some free of it, and the penalty's strength chosen inside the training part.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from histofuse.io import InputError
from histofuse.models.registry import Estimator

# A trace of ridge for columns that are called unpenalised: a category that separates the cases perfectly stays
# finite, and a well-determined coefficient moves in its fourth digit.
TRACE = 1e-4
STRENGTHS = np.geomspace(1, 1e-3, 7)  # of the logistic ridge, per case on z-scored features


class LinearModel(Estimator):
    """Cox proportional hazards (survival) or multinomial logistic regression (classification).

    Without penalised blocks: maximum likelihood (Cox with Efron's rule for ties). With them: an elastic net for Cox
    and a ridge for the logistic model, the strength chosen by cross-validation within the training part (Cox: mean
    Harrell C of the held-out folds that have a comparable pair; logistic: held-out log likelihood).

    Args:
        penalised: blocks under the penalty; the others keep their coefficients free.
        l1_ratio: share of the L1 part in Cox's elastic net; near 0 it is a ridge that still has a fast path.
        folds, seed: of the inner cross-validation.
    """

    def __init__(self, penalised: list[str] | None = None, l1_ratio: float = 0.05, folds: int = 5, seed: int = 0):
        self.penalised = list(penalised or [])
        self.l1_ratio = l1_ratio
        self.folds = folds
        self.seed = seed

    def fit(self, blocks: dict[str, np.ndarray], target) -> LinearModel:
        unknown = sorted(set(self.penalised) - set(blocks))
        if unknown:
            raise InputError(f"params: penalised: no block {', '.join(unknown)} among the inputs {sorted(blocks)}")
        x = _join(blocks)
        factor = np.concatenate(
            [np.full(values.shape[1], float(name in self.penalised)) for name, values in blocks.items()]
        )
        if target.kind == "survival":
            self.coefficients, self.penalty = self._fit_cox(x, factor, target)
        else:
            self.coefficients, self.penalty = self._fit_logistic(x, factor, target)
        return self

    def predict(self, blocks: dict[str, np.ndarray]) -> np.ndarray:
        """Float64 [case] log hazards, or [case, class] log probabilities."""
        x = _join(blocks)
        if self.coefficients.ndim == 1:
            return x @ self.coefficients
        return _log_softmax(x @ self.coefficients[:-1] + self.coefficients[-1])

    def weights(self) -> dict[str, np.ndarray]:
        """`coefficients`: [feature] (Cox) or [feature + 1, class] with the intercepts last; `penalty`: its strength."""
        return {"coefficients": self.coefficients, "penalty": np.array([self.penalty])}

    def restore(self, weights: dict[str, np.ndarray]) -> LinearModel:
        """Take over what `weights` gave, to predict other cases; return self."""
        self.coefficients, self.penalty = weights["coefficients"], float(weights["penalty"][0])
        return self

    def _inner_folds(self, stratum: np.ndarray):
        from sklearn.model_selection import StratifiedKFold

        folds = min(self.folds, int(np.bincount(stratum)[np.unique(stratum)].min()))
        if folds < 2:
            raise InputError(
                "the training part has an outcome with a single case: no inner cross-validation is possible. "
                "Use a larger training part, a coarser task or a model without penalised blocks"
            )
        return StratifiedKFold(folds, shuffle=True, random_state=self.seed).split(stratum, stratum)

    def _fit_cox(self, x: np.ndarray, factor: np.ndarray, target) -> tuple[np.ndarray, float]:
        from sksurv.linear_model import CoxnetSurvivalAnalysis, CoxPHSurvivalAnalysis
        from sksurv.metrics import concordance_index_censored
        from sksurv.util import Surv

        event = target.event.astype(bool)
        outcome = Surv.from_arrays(event, target.time)
        if not factor.any():
            return CoxPHSurvivalAnalysis(alpha=TRACE, ties="efron", n_iter=200).fit(x, outcome).coef_, 0.0
        path = {"l1_ratio": self.l1_ratio, "penalty_factor": factor}
        whole = CoxnetSurvivalAnalysis(n_alphas=40, alpha_min_ratio=0.01, **path).fit(x, outcome)
        score, judged = np.zeros(len(whole.alphas_)), 0
        for train, held_out in self._inner_folds(event.astype(int)):
            if not _has_comparable_pair(event[held_out], target.time[held_out]):
                continue  # nobody in it is known to outlive another: it judges no strength
            judged += 1
            fold = CoxnetSurvivalAnalysis(alphas=whole.alphas_, **path).fit(x[train], outcome[train])
            risks = x[held_out] @ fold.coef_
            for k in range(risks.shape[1]):  # a fold whose path stops early scores 0 for the rest
                score[k] += concordance_index_censored(event[held_out], target.time[held_out], risks[:, k])[0]
        if not judged:
            raise InputError(
                f"the training part has {event.sum()} deaths in {len(event)} cases, and no fold of the inner "
                "cross-validation a case that is known to outlive another: no penalty can be chosen. "
                "Use a larger training part or a model without penalised blocks"
            )
        best = int(np.argmax(score))
        return whole.coef_[:, best], float(whole.alphas_[best])

    def _fit_logistic(self, x: np.ndarray, factor: np.ndarray, target) -> tuple[np.ndarray, float]:
        if not factor.any():
            return _logistic_path(x, factor, target.label, target.classes, [TRACE])[-1], 0.0
        score = np.zeros(len(STRENGTHS))
        for train, held_out in self._inner_folds(target.label):
            path = _logistic_path(x[train], factor, target.label[train], target.classes, STRENGTHS)
            for k, weights in enumerate(path):
                log_probability = _log_softmax(x[held_out] @ weights[:-1] + weights[-1])
                score[k] += log_probability[np.arange(len(held_out)), target.label[held_out]].sum()
        best = int(np.argmax(score))
        path = _logistic_path(x, factor, target.label, target.classes, STRENGTHS[: best + 1])
        return path[-1], float(STRENGTHS[best])


def _join(blocks: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate(list(blocks.values()), axis=1).astype(np.float64)


def _has_comparable_pair(event: np.ndarray, time: np.ndarray) -> bool:
    """Whether somebody died before another's time, or at the time when another was censored."""
    if not event.any():
        return False
    first = time[event].min()
    return bool(((time > first) | (~event & (time == first))).any())


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits - logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def _logistic_path(
    x: np.ndarray, factor: np.ndarray, label: np.ndarray, classes: int, strengths: Sequence[float]
) -> list[np.ndarray]:
    """Ridge-penalised multinomial logistic regressions, each started from the one before.

    Each result is [feature + 1, class], the intercepts last. scikit-learn has one penalty for every column; a column
    divided by s has its penalty multiplied by s², which is how the free columns get only a trace of it.
    """
    from sklearn.linear_model import LogisticRegression

    fit = LogisticRegression(max_iter=5000, warm_start=True)
    path = []
    for strength in strengths:
        scale = np.sqrt(np.maximum(factor, TRACE / strength))
        fit.set_params(C=1 / (strength * len(x))).fit(x / scale, label)
        rows = np.concatenate([fit.coef_.T / scale[:, None], fit.intercept_[None]])
        weights = np.zeros((x.shape[1] + 1, classes))
        if len(fit.classes_) == 2:  # scikit-learn keeps only the second class's column
            weights[:, fit.classes_[1]] = rows[:, 0]
        else:
            weights[:, fit.classes_] = rows
        weights[-1, np.setdiff1d(np.arange(classes), fit.classes_)] = -30.0  # never seen: all but impossible
        path.append(weights)
    return path
