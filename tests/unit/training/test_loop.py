"""The epoch loop: the same bits again, also after an interruption; schedules, selection, errors."""

import numpy as np
import pandas as pd
import pytest
import torch
from killed_runs import kill_after

from histofuse.evaluation.undefined import Undefined
from histofuse.io import InputError
from histofuse.models.snn import SNN
from histofuse.training import loop
from histofuse.training.dataset import Split, Target
from histofuse.training.loop import DivergedError, Settings, fit
from histofuse.training.losses import cox_loss


@pytest.fixture
def split():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 5)).astype(np.float32)
    time, event = rng.exponential(np.exp(-x[:, 0])), (rng.random(60) < 0.8).astype(np.int64)
    parts = ["train"] * 40 + ["val"] * 10 + ["test"] * 10
    rows = pd.DataFrame({"case_id": [f"C{k}" for k in range(60)], "part": parts})
    return Split(rows, Target("survival", time, event, np.zeros(0, int)), {"genes": x})


def train(split, folder, seed=0, digest="d", name="c.pt", build=None, criterion=None, **settings):
    time, event = torch.tensor(split.target.time), torch.tensor(split.target.event)
    settings = Settings(**({"epochs": 6, "lr": 0.01, "batch_size": 16} | settings))
    return fit(
        build or (lambda: SNN({"genes": (5,)}, 1)),
        split,
        lambda outputs, rows: cox_loss(outputs.squeeze(-1), time[rows], event[rows]),
        criterion or (lambda outputs, rows: -np.abs(outputs).sum()),
        settings,
        seed,
        folder / name,
        digest,
    )


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


def test_same_seed_same_bits(split, tmp_path):
    one, _ = train(split, tmp_path, name="1.pt")
    two, _ = train(split, tmp_path, name="2.pt")
    other, _ = train(split, tmp_path, seed=1, name="3.pt")
    assert same(one, two)
    assert not same(one, other)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "exponential"])
@pytest.mark.parametrize("optimiser", ["adam", "adamw", "sgd", "adagrad"])
def test_an_interrupted_run_goes_on_to_the_same_bits(split, tmp_path, monkeypatch, schedule, optimiser):
    settings = {"schedule": schedule, "optimiser": optimiser, "select": "validation"}
    whole, history = train(split, tmp_path, name="whole.pt", **settings)
    kill_after(3, monkeypatch, lambda: train(split, tmp_path, **settings))
    resumed, resumed_history = train(split, tmp_path, **settings)
    assert same(whole, resumed)
    pd.testing.assert_frame_equal(history.drop(columns="seconds"), resumed_history.drop(columns="seconds"))


def test_a_checkpoint_of_another_run_is_not_continued(split, tmp_path, capsys):
    fresh, _ = train(split, tmp_path, name="fresh.pt")
    train(split, tmp_path, seed=5, digest="other")
    again, _ = train(split, tmp_path)
    assert same(fresh, again)
    assert "made with other data, settings or code" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off"])
def test_a_damaged_checkpoint_means_starting_over(split, tmp_path, capsys, content):
    fresh, _ = train(split, tmp_path, name="fresh.pt")
    (tmp_path / "c.pt").write_bytes(content)
    again, _ = train(split, tmp_path)
    assert same(fresh, again)
    assert "not readable" in capsys.readouterr().out


def test_learning_rates():
    linear = Settings(epochs=50, lr=1)
    assert linear.lr_factor(0) == pytest.approx(1 - 1 / 51)
    assert linear.lr_factor(49) == pytest.approx(1 / 51)
    cosine = Settings(epochs=10, lr=1, schedule="cosine")
    assert [cosine.lr_factor(e) for e in (0, 5)] == pytest.approx([1, 0.5])
    assert Settings(epochs=3, lr=1, schedule="constant").lr_factor(2) == 1
    assert Settings(epochs=3, lr=1, schedule="exponential", decay=0.9).lr_factor(2) == pytest.approx(0.81)


def test_the_test_part_has_no_influence(split, tmp_path):
    before, _ = train(split, tmp_path, name="1.pt", select="validation")
    split.blocks["genes"][split.part("test")] = 1e3
    split.target.time[split.part("test")] = -1
    after, _ = train(split, tmp_path, name="2.pt", select="validation")
    assert same(before, after)


def test_selection_keeps_the_best_epoch(split, tmp_path):
    """The criterion here prefers small outputs, so the chosen weights are those of the epoch with the best value."""
    model, history = train(split, tmp_path, select="validation", lr=0.05)
    best = history["val_metric"].max()
    val = split.part("val")
    outputs = loop.predict(model, loop.Batches(split, torch.device("cpu")), val)
    assert -np.abs(outputs).sum() == pytest.approx(best)


def test_of_equally_good_epochs_selection_keeps_the_first(split, tmp_path):
    """All are equally good by a constant criterion; a constant rate makes the first that of a run of one epoch."""
    settings = {"select": "validation", "schedule": "constant", "criterion": lambda outputs, rows: 0.5}
    first, _ = train(split, tmp_path, name="1.pt", epochs=1, **settings)
    kept, history = train(split, tmp_path, name="6.pt", epochs=6, **settings)
    assert history["val_metric"].tolist() == [0.5] * 6
    assert same(kept, first)


def test_selection_needs_a_validation_part(split, tmp_path):
    split.rows["part"] = split.rows["part"].replace("val", "test")
    with pytest.raises(InputError, match="the protocol has no validation part; choose last"):
        train(split, tmp_path, select="validation")


def test_a_diverging_run_says_so(split, tmp_path):
    split.blocks["genes"][0, 0] = np.nan
    with pytest.raises(InputError, match="epoch 0: the loss is nan; lower training: lr"):
        train(split, tmp_path)


@pytest.mark.parametrize("name", ["unscored", "infinite"])
def test_an_epoch_that_cannot_be_judged_says_what_to_do(split, tmp_path, name):
    def unscored(outputs, rows):
        raise Undefined("class 2 has no case")

    if name == "unscored":
        with pytest.raises(
            InputError, match=r"cannot be scored \(class 2 has no case\); give the protocol a larger val"
        ):
            train(split, tmp_path, select="validation", criterion=unscored)
    else:  # the loss of the only step was finite, what it led to is not
        with pytest.raises(DivergedError, match="an output is not a finite number; lower training: lr"):
            train(split, tmp_path, select="validation", epochs=1, batch_size=64, lr=1e30, optimiser="sgd")


def test_the_loss_of_an_epoch_is_that_of_the_rows_it_took(split, tmp_path, monkeypatch):
    """39 rows in batches of 32: the last seven are left out of the epoch, and of its mean."""
    split.rows.loc[39, "part"] = "test"
    monkeypatch.setattr("test_loop.cox_loss", lambda outputs, time, event: 1 + 0 * outputs.sum())
    _, history = train(split, tmp_path, batch_size=32)
    np.testing.assert_allclose(history["loss"], 1)


def test_l1_and_clipping_change_the_steps(split, tmp_path):
    plain, _ = train(split, tmp_path, name="1.pt")
    sparse, _ = train(split, tmp_path, name="2.pt", l1=0.1)
    clipped, _ = train(split, tmp_path, name="3.pt", optimiser="sgd", clip_norm=1e-6)
    start, _ = train(split, tmp_path, name="4.pt", optimiser="sgd", epochs=1, lr=1e-12)
    size = lambda model: sum(p.abs().sum().item() for p in model.parameters())  # noqa: E731
    assert size(sparse) < size(plain)
    for a, b in zip(clipped.parameters(), start.parameters()):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_rates_rise_in_the_warm_up_and_are_stepped_at_every_batch(split, tmp_path, monkeypatch):
    """Four epochs of three batches, the first of warm-up: 1/6, 1/2, 5/6 of the rate, then a cosine over the others."""
    rates, step = [], torch.optim.SGD.step
    monkeypatch.setattr(
        torch.optim.SGD, "step", lambda self, *a: (rates.append(self.param_groups[0]["lr"]), step(self, *a))
    )
    settings = {"epochs": 4, "lr": 0.1, "schedule": "cosine", "warmup_epochs": 1, "optimiser": "sgd"}
    train(split, tmp_path, **settings)
    along = (np.arange(9) + 0.5) / 9
    np.testing.assert_allclose(rates, 0.1 * np.concatenate([[1 / 6, 1 / 2, 5 / 6], (1 + np.cos(np.pi * along)) / 2]))
    with pytest.raises(InputError, match="warmup_epochs: a modulation of kind balance sets rates of its own"):
        train(split, tmp_path, modulation={}, **settings)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [1, 1, 3 / 4, 2 / 4, 1 / 4]),  # Pathomic Fusion's: 1 − max(0, e + 1 − constant) / (decaying + 1)
        ("cosine", [1, 1, 1, 3 / 4, 1 / 4]),
        ("exponential", [1, 1, 1, 0.5, 0.25]),
        ("constant", [1] * 5),
    ],
)
def test_a_schedule_begins_after_the_constant_epochs(schedule, expected):
    settings = loop.Settings(epochs=5, lr=1.0, schedule=schedule, constant_epochs=2, decay=0.5)
    np.testing.assert_allclose([settings.lr_factor(epoch) for epoch in range(5)], expected)


def test_the_last_epochs_weights_are_averaged_also_when_interrupted(split, tmp_path, monkeypatch):
    """The mean of what runs of 3, 4 and 5 epochs end with; a constant rate makes their epochs the same."""
    constant = {"schedule": "constant"}
    single = [train(split, tmp_path, name=f"{n}.pt", epochs=n, **constant)[0].state_dict() for n in (3, 4, 5)]
    averaged = {"epochs": 5, "average": 3} | constant
    whole, _ = train(split, tmp_path, name="whole.pt", **averaged)
    for name, values in whole.state_dict().items():
        expected = sum(state[name].double() for state in single) / 3
        np.testing.assert_allclose(values.double().cpu(), expected.cpu(), atol=1e-6)
    kill_after(4, monkeypatch, lambda: train(split, tmp_path, **averaged))
    assert same(whole, train(split, tmp_path, **averaged)[0])


def test_averaging_does_not_go_with_a_choice_on_the_validation_part(split, tmp_path):
    with pytest.raises(InputError, match="average: is of the last epochs; it does not go with select: validation"):
        train(split, tmp_path, average=2, select="validation")


def test_an_operation_without_a_deterministic_kernel_warns_and_runs():
    loop.make_deterministic()
    with pytest.warns(UserWarning, match="put_ does not have a deterministic implementation"):
        placed = torch.zeros(3).put_(torch.tensor([1]), torch.tensor([2.0]))
    assert placed.tolist() == [0, 2, 0]
    assert torch.are_deterministic_algorithms_enabled()
