"""Tuning: the same settings for every model, none judged by a test case, the best of them chosen."""

import json

import numpy as np
import pandas as pd
import pytest
from branch_examples import two_branch_split

from histofuse.evaluation.survival import harrell_c
from histofuse.io import InputError
from histofuse.models.snn import SNN
from histofuse.training import tuning
from histofuse.training.chosen import chosen_entry, with_settings
from histofuse.training.dataset import Split, Target, load_split
from histofuse.training.run import Job, run
from histofuse.training.tuning import draw_trials, tune

ENTRY = {"training": {"epochs": 2, "lr": 0.003}, "params": {"dropout": 0.25}}
SPACE = {"lr": {"log": [1e-4, 1e-1]}, "weight_decay": [0.0, 0.01, 0.1], "epochs": [2, 4]}
TUNING = {"space": SPACE, "trials": 6, "seed": 3}
SURVIVAL = {"kind": "survival"}


def drawn(entry=ENTRY, **change):
    return draw_trials(TUNING | change, entry)


def test_the_first_trial_is_the_entrys_own_and_no_trial_is_there_twice():
    trials = drawn()
    assert trials[0] == {"lr": 0.003, "weight_decay": 0.0, "epochs": 2}  # a decay of 0 is the default
    assert len({json.dumps(trial, sort_keys=True) for trial in trials}) == 6
    assert all(1e-4 <= trial["lr"] <= 1e-1 and trial["weight_decay"] in SPACE["weight_decay"] for trial in trials)
    assert len({trial["lr"] for trial in trials}) == 6


def test_draws_follow_from_the_seed_alone_and_are_the_same_for_every_model():
    other = {"training": {"epochs": 9, "lr": 1.0, "optimiser": "sgd"}}
    assert drawn() == drawn()
    assert drawn()[1:] == drawn(other)[1:]
    assert drawn()[1:] != drawn(seed=4)[1:]


def test_another_key_leaves_the_draws_of_the_others_alone():
    fewer = drawn(space={"lr": SPACE["lr"]})
    assert [trial["lr"] for trial in fewer] == [trial["lr"] for trial in drawn()]


def test_a_model_without_a_parameter_is_tried_with_as_many_settings():
    space = {"params.dropout": [0.1, 0.25, 0.5], "weight_decay": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]}
    with_it, without = drawn(space=space), drawn({"training": ENTRY["training"]}, space=space)
    assert len(with_it) == len(without) == 6
    assert all(list(trial) == ["weight_decay"] for trial in without)


@pytest.mark.parametrize(("decays", "trials"), [([0.0, 0.1, 0.1], 2), ([0.2, 0.1], 3), ([0.0], 1)])
def test_where_there_are_fewer_combinations_all_are_tried(decays, trials):
    """The entry's own 0 is one of them, or comes in addition."""
    found = [trial["weight_decay"] for trial in drawn(space={"weight_decay": decays})]
    assert sorted(found) == sorted({0.0, *decays})
    assert len(found) == trials


def test_settings_go_where_they_belong_and_branches_keep_their_ratio(tmp_path):
    entry = {"training": {"lr": 0.01, "epochs": 2, "branch_lr": {"image": 0.001}}, "params": {"image": {"width": 3}}}
    changed = with_settings(entry, {"lr": 0.002, "params.image.width": 5})
    assert changed["training"]["lr"] == 0.002
    assert changed["training"]["branch_lr"]["image"] == pytest.approx(0.0002)
    assert changed["params"] == {"image": {"width": 5}}
    assert entry["training"]["lr"] == 0.01
    assert entry["params"]["image"]["width"] == 3
    (tmp_path / "tuning.json").write_text(json.dumps({"settings": {"lr": 0.5}}))
    assert chosen_entry(ENTRY, tmp_path / "tuning.json")["training"]["lr"] == 0.5
    assert chosen_entry(ENTRY, None) is ENTRY


def inner_split(n=60, signal=2.0, kind="survival"):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 5)).astype(np.float32)
    time, event = rng.exponential(np.exp(-signal * x[:, 0])) * 100, (rng.random(n) < 0.8).astype(np.int64)
    label = (x[:, 0] > 0).astype(np.int64) if kind == "classification" else np.zeros(0, int)
    rows = pd.DataFrame({"case_id": [f"C{k:02}" for k in range(n)], "part": ["train"] * 45 + ["val"] * (n - 45)})
    return Split(rows, Target(kind, time, event, label, 2 if len(label) else 0), {"genes": x})


def job(folder, digest="d"):
    return Job(number=2, seed=3, threads=1, checkpoint=folder / "tuning", digest=digest)


def tuned(folder, split=None, task=SURVIVAL, digest="d", **change):
    options = TUNING | {"space": {"lr": [1e-7, 0.02], "epochs": [2, 12]}} | change
    return tune(SNN, ENTRY, task, split or inner_split(), options, job(folder, digest))


def test_the_best_trial_is_chosen_by_the_inner_validation_part(tmp_path):
    """Each trial is what a run of its own settings gives; the validation part alone judges it."""
    found = tuned(tmp_path)
    split = inner_split()
    val = split.part("val")
    for _, trial in found.trials.iterrows():
        entry = with_settings(ENTRY, json.loads(trial["settings"]))
        alone = Job(2, 3, 1, tmp_path / "alone.pt", str(trial["trial"]))
        result = run(SNN, entry, SURVIVAL, split, alone)
        risk = result.predictions["risk"].to_numpy()[val]
        assert trial["metric"] == harrell_c(risk, split.target.time[val], split.target.event[val])
        if trial["chosen"]:
            assert all(np.array_equal(values, result.weights[name]) for name, values in found.weights.items())
        alone.checkpoint.unlink(missing_ok=True)
    assert len(found.trials) == 5
    assert found.trials["chosen"].tolist().index(True) == found.trials["metric"].to_numpy().argmax()
    assert found.trials["metric"].nunique() > 1
    assert found.settings == json.loads(found.trials.loc[found.trials["chosen"], "settings"].item())


def test_classes_are_judged_by_macro_auc(tmp_path):
    task = {"kind": "classification", "classes": {"a": [0], "b": [1]}}
    found = tuned(tmp_path, inner_split(kind="classification"), task)
    assert found.trials.loc[found.trials["chosen"], "metric"].item() > 0.9


def test_of_equal_trials_the_first_is_chosen(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "_metric", lambda *_: 0.5)
    assert tuned(tmp_path).trials["chosen"].tolist() == [True, False, False, False, False]


def test_a_failed_trial_is_recorded_and_never_chosen(tmp_path):
    found = tuned(tmp_path, space={"lr": [1e30]})
    assert found.trials["chosen"].tolist() == [True, False]
    assert "lower training: lr" in found.trials["failed"][1] or "not a finite number" in found.trials["failed"][1]
    assert np.isnan(found.trials["metric"][1])


def test_trials_that_all_fail_are_refused(tmp_path):
    entry = {"training": {"epochs": 3, "lr": 1e30}}
    with pytest.raises(InputError, match="tuning: all 2 trials failed; the first: "):
        tune(SNN, entry, SURVIVAL, inner_split(), TUNING | {"space": {"lr": [1e31]}}, job(tmp_path))


def test_a_test_case_is_refused(tmp_path):
    with pytest.raises(InputError, match="the split holds test cases"):
        tuned(tmp_path, two_branch_split())


def test_test_cases_of_the_protocol_are_not_in_an_inner_split():
    cases = [f"C{k}" for k in range(8)]
    population = pd.DataFrame({"case_id": cases, "time_days": 9.0, "event": 1, "label": pd.NA})
    parts = ["train"] * 4 + ["val"] * 2
    inner = pd.DataFrame({"split": 0, "case_id": cases[:6], "part": parts})
    table = pd.DataFrame({"case_id": cases, "A": np.arange(8.0), "B": np.arange(8.0) ** 2})
    split = load_split(population, inner, 0, SURVIVAL, {"expression": {}}, {"expression": table})
    assert split.rows["case_id"].tolist() == cases[:6]
    assert len(split.blocks["expression"]) == len(split.target.time) == 6
    assert split.blocks["expression"][:4].mean(axis=0) == pytest.approx(
        0, abs=1e-6
    )  # scaled by the inner training part


def test_a_validation_part_that_cannot_be_scored_is_refused(tmp_path):
    split = inner_split()
    split.target.event[split.part("val")] = 0
    with pytest.raises(InputError, match="split 2: the inner validation part of 15 cases cannot be scored"):
        tuned(tmp_path, split)


class Killed(Exception):
    pass


def test_a_killed_tuning_goes_on_at_its_next_trial(tmp_path, monkeypatch):
    whole = tuned(tmp_path / "whole")
    done = []

    def dies_at_the_third(*arguments):
        if len(done) == 2:
            raise Killed
        done.append(arguments[1]["training"])
        return run(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(tuning, "run", dies_at_the_third)
        with pytest.raises(Killed):
            tuned(tmp_path)
    ran = []
    monkeypatch.setattr(tuning, "run", lambda *arguments: ran.append(arguments[1]) or run(*arguments))
    resumed = tuned(tmp_path)
    assert len(ran) == 3
    columns = ["trial", "settings", "metric", "failed", "chosen"]
    pd.testing.assert_frame_equal(resumed.trials[columns], whole.trials[columns])
    assert resumed.weights.keys() == whole.weights.keys()
    assert all(np.array_equal(values, whole.weights[name]) for name, values in resumed.weights.items())


def test_a_tuning_of_other_data_is_not_gone_on_with(tmp_path, monkeypatch):
    tuned(tmp_path)
    ran = []
    monkeypatch.setattr(tuning, "run", lambda *arguments: ran.append(arguments[1]) or run(*arguments))
    tuned(tmp_path)
    assert ran == []
    tuned(tmp_path, digest="other")
    assert len(ran) == 5
