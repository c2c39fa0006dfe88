"""Speed of the inner pieces, each as a ratio to a plain reference timed in the same run (never a time by itself)."""

import time

import numpy as np
import pytest
import torch
from lifelines.utils import concordance_index

from histofuse.evaluation.resampling import draw_counts, of_survival
from histofuse.evaluation.survival import harrell_c
from histofuse.training.losses import cox_loss


def best_of(function, repeats=5):
    """Shortest of some timings, which is the one least disturbed, in seconds."""
    timings = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        timings.append(time.perf_counter() - start)
    return min(timings)


def report(name, ours, reference):
    print(f"\n{name}: {1e3 * ours:.3f} ms against {1e3 * reference:.3f} ms, {reference / ours:.1f} ×")
    return reference / ours


@pytest.fixture
def cohort():
    rng = np.random.default_rng(0)
    risk = rng.normal(size=500)
    return risk, rng.exponential(np.exp(-risk)) * 1000, rng.integers(0, 2, 500)


def test_cox_loss_against_a_risk_set_loop(cohort):
    """One step (forward and backward) on a batch of 64: masked logsumexp against a loop over risk sets."""
    theta, time_, event = (torch.tensor(values[:64]) for values in cohort)

    def loop():
        x = theta.clone().requires_grad_()
        total = 0.0
        for k in range(64):
            if event[k]:
                at_risk = torch.stack([x[j] for j in range(64) if time_[j] >= time_[k]])
                total = total + torch.logsumexp(at_risk, 0) - x[k]
        (total / 64).backward()
        return x.grad

    def ours():
        x = theta.clone().requires_grad_()
        cox_loss(x, time_, event).backward()
        return x.grad

    torch.testing.assert_close(ours(), loop())
    assert report("Cox step, batch 64", best_of(ours, 20), best_of(loop)) > 10


def test_harrell_against_lifelines(cohort):
    risk, time_, event = cohort
    assert harrell_c(risk, time_, event) == pytest.approx(concordance_index(time_, -risk, event), abs=1e-12)
    ours = best_of(lambda: harrell_c(risk, time_, event))
    assert report("Harrell C, 500 cases", ours, best_of(lambda: concordance_index(time_, -risk, event))) > 1.5


def test_bootstrap_against_resampling_with_lifelines(cohort):
    """1,000 replicates; the reference is timed on 50 of them."""
    risk, time_, event = cohort
    rng = np.random.default_rng(1)

    def resample():
        for _ in range(50):
            rows = rng.integers(0, 500, 500)
            concordance_index(time_[rows], -risk[rows], event[rows])

    nobody = (np.array([]), np.array([]))  # in training: Harrell's C alone
    ours = best_of(lambda: of_survival(time_, event, risk, draw_counts(500), train=nobody)["harrell_c"])
    assert report("1,000 bootstrap C-indices, 500 cases", ours, 20 * best_of(resample, 2)) > 20
