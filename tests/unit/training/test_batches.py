"""Which rows a batch holds, and what a row with a region becomes."""

import numpy as np
import pytest
import torch
from region_examples import region_split

from histofuse.training.batches import Batches, batches_of

CPU = torch.device("cpu")


def test_every_row_is_seen_once_an_epoch_and_a_tiny_last_batch_is_left_out():
    rows = np.arange(100, 137)
    batches = list(batches_of(rows, 32, seed=0, epoch=0))
    assert [len(batch) for batch in batches] == [32]  # the last 5 are fewer than 8
    batches = list(batches_of(rows, 16, seed=0, epoch=1))
    assert [len(batch) for batch in batches] == [16, 16]
    batches = list(batches_of(rows, 12, seed=0, epoch=1))
    assert sorted(np.concatenate(batches)[:36]) != sorted(rows)[:36]
    assert len(set(np.concatenate(batches))) == 36
    assert next(iter(batches_of(rows[:5], 32, seed=0, epoch=0))).tolist() != []
    np.testing.assert_array_equal(next(iter(batches_of(rows, "full", 0, 0))), rows)
    small = list(batches_of(rows, 4, seed=0, epoch=0))
    assert [len(batch) for batch in small] == [4] * 9


@pytest.mark.parametrize("size", [8, 32, 33, 1000])
def test_a_case_is_in_a_batch_once(size):
    rng = np.random.default_rng(0)
    cases = np.repeat([f"C{k}" for k in range(60)], rng.integers(1, 4, 60))
    rows = rng.permutation(len(cases)) + 10
    batches = list(batches_of(rows, size, 0, 0, cases))
    case_of = dict(zip(rows, cases))
    for batch in batches:
        assert len({case_of[row] for row in batch}) == len(batch) <= size
    seen = np.concatenate(batches)
    assert len(set(seen)) == len(seen)
    if size == 1000:  # one batch: a row of every case
        assert len(seen) == 60
    else:
        assert len(seen) == len(rows)
        assert max(map(len, batches)) - min(map(len, batches)) <= 1


def test_which_row_waits_and_the_order_change_from_epoch_to_epoch():
    cases = np.array(["A"] * 5 + ["B", "C", "D"])
    epochs = [list(batches_of(np.arange(8), 4, 0, epoch, cases)) for epoch in range(40)]
    assert all(len(np.concatenate(batches)) == 5 for batches in epochs)  # two batches, so A is seen twice
    assert {row for batches in epochs for batch in batches for row in batch} == set(range(8))
    again = list(batches_of(np.arange(8), 4, 0, 7, cases))
    assert all(np.array_equal(a, b) for a, b in zip(again, epochs[7], strict=True))


def test_a_full_batch_of_unique_cases():
    (batch,) = batches_of(np.arange(6), "full", 0, 0, np.array(list("AABBCC")))
    assert sorted(row // 2 for row in batch) == [0, 1, 2]


def test_a_region_is_one_image_in_training_and_all_its_crops_in_prediction(tmp_path):
    split = region_split(tmp_path)
    split.blocks["genes"] = np.arange(48, dtype=np.float32)[:, None]
    batches = Batches(split, CPU)
    batches.start_epoch(0, 0)
    batch = batches(np.array([5, 2]))
    assert batch["regions"].shape == (2, 3, 32, 32)
    assert batch["genes"].ravel().tolist() == [5, 2]
    assert batches.views == 4
    batch = batches.to_predict(np.array([5, 2]))
    assert batch["regions"].shape == (8, 3, 32, 32)
    assert batch["genes"].ravel().tolist() == [5, 5, 5, 5, 2, 2, 2, 2]
    middle = batches.to_predict(np.array([5, 2]), middle=True)
    assert middle["genes"].ravel().tolist() == [5, 2]
    assert torch.equal(middle["regions"], batch["regions"][[2, 6]])


def test_tables_alone_are_predicted_as_they_are_trained_on(tmp_path):
    split = region_split(tmp_path)
    split.blocks["genes"] = np.arange(48, dtype=np.float32)[:, None]
    split.regions = None
    batches = Batches(split, CPU)
    assert batches.views == 1
    assert batches.to_predict(np.array([3, 1]))["genes"].tolist() == batches(np.array([3, 1]))["genes"].tolist()
