"""Coordination of a decoder's two halves: the gradients, the confidences and what becomes of one step."""

import numpy as np
import pytest
import torch
from sksurv.metrics import concordance_index_censored
from torch import nn

from histofuse.evaluation.survival import harrell_c
from histofuse.io import InputError
from histofuse.training.coordination import Coordination, Evidence, concordance, coordinate

FIRST, SECOND = torch.tensor([0.2, 0.8]), torch.tensor([0.8, 0.2])  # the less trusted branch


def cosine(a, b):
    return torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0).item()


def conflicting(outputs=4, width=16, dtype=torch.float32):
    """A gradient whose halves conflict, as blocks and in every row."""
    generator = torch.Generator().manual_seed(1)
    a, noise = torch.randn(2, outputs, width, generator=generator, dtype=dtype)
    return torch.cat([a, 0.7 * noise - a], dim=1)


# Gradients -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("granularity", ["block", "row"])
def test_projection_takes_what_points_against_the_other(granularity):
    """The dot product is 0 afterwards; the trusted half is the same to the bit, the other the published formula."""
    gradient = conflicting()
    a, b = gradient.split(16, dim=1)
    for confidence, left, other in ((FIRST, 0, b), (SECOND, 1, a)):
        result, _, changed = coordinate(gradient, confidence, granularity=granularity)
        halves = result.split(16, dim=1)
        dots = (halves[0] * halves[1]).sum(1)
        assert (dots if granularity == "row" else dots.sum()).abs().max() < 1e-6
        assert torch.equal(halves[1 - left], other)
        assert changed[left].all()
        assert not changed[1 - left].any()
    formula = b - ((a * b).sum() / a.square().sum()) * a
    if granularity == "row":
        formula = torch.stack([y - (x @ y / (x @ x)) * x for x, y in zip(a, b)])
    torch.testing.assert_close(halves[1], formula)


def test_rows_are_projected_each_for_itself():
    """Only the second output conflicts; as a whole the halves do."""
    gradient = torch.tensor([[1.0, 0, 1, 0], [3, 0, -3, 1]])
    by_row, cosines, changed = coordinate(gradient, FIRST, granularity="row")
    torch.testing.assert_close(by_row, torch.tensor([[1.0, 0, 1, 0], [0.3, 0.9, -3, 1]]))
    assert cosines.tolist() == pytest.approx([1, -9 / 90**0.5])
    assert changed.tolist() == [[False, True], [False, False]]
    by_block, _, _ = coordinate(gradient, FIRST)
    torch.testing.assert_close(by_block[:, :2], torch.tensor([[1.0, 0], [3, 0]]) + 8 / 11 * gradient[:, 2:])


def test_reflection_turns_the_cosine_round():
    """The case of the specification, −0.547 becomes +0.547, and the length that of the projected vector."""
    a, b = torch.tensor([[3.0, 0.0]]), torch.tensor([[-0.547, (1 - 0.547**2) ** 0.5]])
    gradient = torch.cat([a, b], dim=1)
    assert cosine(a, b) == pytest.approx(-0.547)
    reflected, _, _ = coordinate(gradient, FIRST, "reflection")
    projected, _, _ = coordinate(gradient, FIRST)
    assert cosine(reflected[:, :2], b) == pytest.approx(0.547, abs=1e-6)
    assert cosine(projected[:, :2], b) == pytest.approx(0, abs=1e-6)
    assert reflected[:, :2].norm().item() == pytest.approx(3 * (1 - 0.547**2) ** 0.5)
    assert torch.equal(reflected[:, 2:], b)


@pytest.mark.parametrize("operation", ["projection", "reflection"])
@pytest.mark.parametrize("granularity", ["block", "row"])
def test_without_a_conflict_or_a_less_trusted_branch_nothing_changes(operation, granularity):
    gradient = conflicting()
    agreeing = torch.cat([gradient[:, :16], -gradient[:, 16:]], dim=1)
    zero = torch.zeros_like(gradient)
    half = torch.cat([gradient[:, :16], zero[:, 16:]], dim=1)
    orthogonal = torch.eye(4).reshape(1, 16)[:, :8]
    for unchanged, confidence in (
        (agreeing, FIRST),
        (zero, FIRST),
        (half, FIRST),
        (half, SECOND),
        (orthogonal, FIRST),
        (gradient, torch.tensor([0.5, 0.5])),
        (gradient, torch.tensor([torch.nan, torch.nan])),
    ):
        result, _, changed = coordinate(unchanged, confidence, operation, granularity)
        assert torch.equal(result, unchanged)
        assert not changed.any()


@pytest.mark.parametrize("operation", ["projection", "reflection"])
def test_opposite_and_tiny_gradients_stay_finite(operation):
    """Opposite halves leave nothing of the projected one; of tiny ones the squares would vanish in single precision."""
    a = conflicting(dtype=torch.float64)[:, :16].float()
    result, cosines, _ = coordinate(torch.cat([a, -2 * a], dim=1), FIRST, operation)
    assert result[:, :16].abs().max() < 1e-6
    assert cosines.item() == pytest.approx(-1)
    tiny, cosines, changed = coordinate(1e-30 * conflicting(), FIRST, operation)
    assert changed[0].all()
    torch.testing.assert_close(1e30 * tiny, coordinate(conflicting(), FIRST, operation)[0])
    assert torch.isfinite(cosines).all()


# Concordance ---------------------------------------------------------------------------------------------------------


def cohort(n=256, seed=0):
    """Risks [2, n] with ties, times with ties, events."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 40, (2, n)) / 8, rng.integers(1, 60, n).astype(float), rng.integers(0, 2, n)


def test_concordance_is_harrells():
    """Of tied times and risks as `harrell_c` has it; without tied times also as scikit-survival."""
    risk, time, event = cohort()
    c = concordance(*map(torch.tensor, (risk, time, event)))
    assert c.tolist() == pytest.approx([harrell_c(of_branch, time, event) for of_branch in risk], rel=1e-12)
    time = time + np.arange(256) / 1e4
    c = concordance(*map(torch.tensor, (risk, time, event)))
    expected = [concordance_index_censored(event.astype(bool), time, of_branch)[0] for of_branch in risk]
    assert c.tolist() == pytest.approx(expected, rel=1e-12)


def test_too_few_comparable_pairs_say_nothing():
    """Four deaths in turn: six pairs."""
    risk, time, event = torch.tensor([[4.0, 3, 2, 1], [1, 2, 3, 4]]), torch.arange(4.0), torch.ones(4)
    assert concordance(risk, time, event, min_pairs=6).tolist() == [1, 0]
    assert concordance(risk, time, event, min_pairs=7).isnan().all()
    assert concordance(risk, time, torch.zeros(4)).isnan().all()


# Steps ---------------------------------------------------------------------------------------------------------------


def decoders(*heads):
    weights = {head: nn.Parameter(torch.zeros(4, 32)) for head in heads or ("",)}
    for k, weight in enumerate(weights.values()):
        weight.grad = (k + 1) * conflicting()
    return weights


def likelihood(*values, heads=("",)):
    return Evidence(heads, ("tumour", "rest"), torch.tensor(values))


def risks(n, seed=0, event=None, better=0):
    """Evidence of n rows; one branch's risk follows the hazard, the other's is against it."""
    rng = np.random.default_rng(seed)
    hazard = rng.normal(size=n)
    signed = np.stack([hazard, -hazard] if better == 0 else [-hazard, hazard])[None]
    event = rng.integers(0, 2, n) if event is None else event
    values = (signed, rng.exponential(np.exp(-3 * hazard)), event)
    return Evidence(
        ("",), ("tumour", "rest"), torch.tensor(values[0], dtype=torch.float32), *map(torch.tensor, values[1:])
    )


def started(weights, **options):
    coordination = Coordination(weights, **options)
    coordination.start_epoch(0, None)
    return coordination


def test_only_the_decoders_weight_is_touched():
    weights = decoders()
    bias, backbone = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(3, 3))
    bias.grad, backbone.grad = torch.ones(4), torch.ones(3, 3)
    before = [p.clone() for p in (weights[""].detach(), bias.grad, backbone.grad)]
    started(weights).before_step(likelihood(FIRST.tolist()))
    assert torch.equal(weights[""].grad, coordinate(conflicting(), FIRST)[0])
    assert all(torch.equal(a, b) for a, b in zip(before, (weights[""].detach(), bias.grad, backbone.grad)))


def test_heads_are_coordinated_by_their_own_confidence():
    """Also where the decoders are named in another order than the heads."""
    weights = decoders("10x", "20x")
    coordination = started(weights)
    coordination.before_step(likelihood([0.2, 0.8], [0.8, 0.2], heads=("20x", "10x")))
    torch.testing.assert_close(weights["10x"].grad, coordinate(conflicting(), SECOND)[0])
    torch.testing.assert_close(weights["20x"].grad, coordinate(2 * conflicting(), FIRST)[0])
    log = coordination.end_epoch()
    assert log["projected_tumour_20x"] == log["projected_rest_10x"] == 1
    assert log["projected_tumour_10x"] == log["projected_rest_20x"] == 0


def test_the_branch_of_smaller_concordance_is_projected():
    for better, confidence in ((0, SECOND), (1, FIRST)):
        weights = decoders()
        started(weights).before_step(risks(64, better=better))
        assert torch.equal(weights[""].grad, coordinate(conflicting(), confidence)[0])


@pytest.mark.parametrize("evidence", [risks(8), risks(64, event=np.zeros(64, int))])
def test_too_few_pairs_or_only_censored_rows_change_nothing(evidence):
    weights = decoders()
    coordination = started(weights)
    coordination.before_step(evidence)
    assert torch.equal(weights[""].grad, conflicting())
    log = coordination.end_epoch()
    assert np.isnan(log["confidence_tumour"])
    assert log["conflict"] == 1


def test_the_latest_rows_are_judged():
    """Small batches fill the rows that are kept, and later ones push the first out."""
    coordination = started(decoders(), rows=40, min_pairs=1)
    batches = [risks(16, seed=k, better=k % 2) for k in range(5)]
    for k, evidence in enumerate(batches):
        coordination.before_step(evidence)
        seen = batches[: k + 1]
        risk = torch.cat([batch.values[0] for batch in seen], dim=1)[:, -40:].numpy()
        time, event = (torch.cat([getattr(b, key) for b in seen])[-40:].numpy() for key in ("time", "event"))
        expected = [harrell_c(of_branch, time, event) for of_branch in risk]
        assert coordination.steps[-1][0, -2:].tolist() == pytest.approx(expected)
    coordination.before_step(risks(100, seed=9))
    assert torch.equal(coordination.state()["risk"][0], risks(100, seed=9).values[0, :, -40:])


@pytest.mark.parametrize("granularity", ["block", "row"])
def test_no_step_waits_for_the_device(granularity):
    """Tensors without values refuse whatever would ask for one."""
    weight = nn.Parameter(torch.zeros(4, 32, device="meta"))
    weight.grad = torch.zeros(4, 32, device="meta")
    coordination = started({"": weight}, granularity=granularity)
    of_risks = risks(16)
    coordination.before_step(of_risks._replace(**{k: getattr(of_risks, k).to("meta") for k in of_risks._fields[2:]}))
    of_chances = likelihood([0.1, 0.2])
    coordination.before_step(of_chances._replace(values=of_chances.values.to("meta")))
    assert len(coordination.steps) == 2


def test_what_is_logged():
    weights = decoders()
    coordination = started(weights)
    for confidence in (FIRST, FIRST, SECOND, FIRST):
        weights[""].grad = conflicting()
        coordination.before_step(likelihood(confidence.tolist()))
    weights[""].grad = conflicting().abs()
    coordination.before_step(likelihood([0.5, 0.3]))
    log = coordination.end_epoch()
    a, b = conflicting().split(16, dim=1)
    assert log == pytest.approx(
        {
            "conflict": 0.8,
            "cosine": (4 * cosine(a, b) + cosine(a.abs(), b.abs())) / 5,
            "projected_tumour": 0.6,
            "projected_rest": 0.2,
            "confidence_tumour": (3 * 0.2 + 0.8 + 0.5) / 5,
            "confidence_rest": (3 * 0.8 + 0.2 + 0.3) / 5,
        }
    )


def test_the_mean_confidence_is_that_of_the_steps_that_had_one():
    coordination = started(decoders(), min_pairs=200)
    for evidence in (risks(8), risks(64)):
        coordination.before_step(evidence)
    assert coordination.steps[0][0, -1].isnan()
    assert coordination.end_epoch()["confidence_rest"] == coordination.steps[1][0, -1].item()


def test_a_state_goes_on_to_the_same_bits():
    whole, first, second = (started(decoders(), rows=40, min_pairs=5) for _ in range(3))
    for k in range(2):
        whole.before_step(risks(16, seed=k))
        first.before_step(risks(16, seed=k))
    second.load({name: value.clone() for name, value in first.state().items()})
    for k in range(2, 5):
        for coordination in (whole, second):
            coordination.decoders[""].grad = conflicting()
            coordination.before_step(risks(16, seed=k, better=k % 2))
        assert torch.equal(whole.decoders[""].grad, second.decoders[""].grad)
    assert torch.equal(torch.stack(whole.steps[2:]), torch.stack(second.steps))
    assert all(torch.equal(value, second.state()[name]) for name, value in whole.state().items())


def test_decoders_that_do_not_go_with_the_output_are_refused():
    with pytest.raises(InputError, match=r"decoders\(\) are of the heads '10x', '20x', the output has ''"):
        started(decoders("10x", "20x")).before_step(likelihood([0.1, 0.2]))
    weights = decoders()
    weights[""].grad = None
    with pytest.raises(InputError, match="the decoder '' has no gradient: it is frozen or unused"):
        started(weights).before_step(likelihood([0.1, 0.2]))
