"""Mixtures: against a dense formula in float64; balanced, seeded, and of one part's cells only."""

import dataclasses
import hashlib

import numpy as np
import pytest
from scipy.stats import kstest
from smoothing_examples import atlas

from histofuse.genomics.smoothing import mixup
from histofuse.genomics.smoothing.mixup import draw_mixes, mixed_profiles, shown_by
from histofuse.io import InputError

CELLS = atlas()


def test_profiles_are_mixtures_of_transcript_shares(monkeypatch):
    mixes = draw_mixes(CELLS, 50, seed=3)
    panel = ["G041", "G002", "G077", "G013"]
    shares = CELLS.counts.toarray().astype(np.float64) / CELLS.library[:, None]  # over all genes, also those unnamed
    weight = mixes.weight[:, None]
    expected = 1e4 * (weight * shares[mixes.i] + (1 - weight) * shares[mixes.j])
    found = mixed_profiles(CELLS, mixes, panel)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected[:, [41, 2, 77, 13]], rtol=1e-6)
    monkeypatch.setattr(mixup, "_CHUNK", 7)
    np.testing.assert_array_equal(mixed_profiles(CELLS, mixes, panel), found)


def test_a_part_of_the_mixtures_has_the_same_profiles():
    mixes = draw_mixes(CELLS, 20, seed=3)
    whole = mixed_profiles(CELLS, mixes, CELLS.genes)
    np.testing.assert_array_equal(mixed_profiles(CELLS, mixes.part(slice(5, 9)), CELLS.genes), whole[5:9])
    np.testing.assert_array_equal(mixes.part(slice(5, 9)).target, mixes.target[5:9])


def test_cells_that_show_nothing_of_the_panel_are_left_out(capsys):
    panel = ["G041", "G002", "G077", "G013"]
    counts = CELLS.counts.toarray()
    counts[[3, 100], :] = np.eye(80)[5]  # one read, of another gene
    counts[[3, 100], 2] = 0
    bare = dataclasses.replace(CELLS, counts=type(CELLS.counts)(counts))
    dark = (counts[:, [41, 2, 77, 13]] == 0).all(axis=1)
    assert dark[[3, 100]].all()
    shown = shown_by(bare, panel)
    assert f"{dark.sum()} of 240 cells express none of the panel's 4 genes and are left out" in capsys.readouterr().out
    assert shown.genes == panel
    for name in ("library", "labels", "donors", "held_out"):
        np.testing.assert_array_equal(getattr(shown, name), getattr(CELLS, name)[~dark])
    mixes = draw_mixes(shown, 200)
    assert (mixed_profiles(shown, mixes, panel).sum(axis=1) > 0).all()
    bare = dataclasses.replace(bare, counts=bare.counts.multiply((CELLS.labels != 2)[:, None]).tocsr())
    with pytest.raises(InputError, match="the panel's 4 genes show none of the train cells of neuron; choose a larger"):
        shown_by(bare, panel)
    with pytest.raises(InputError, match="1 genes of the panel are not in the atlas, the first is TP53"):
        shown_by(bare, ["TP53"])


def test_a_panel_that_every_cell_shows_changes_no_profile():
    whole, mixes = shown_by(CELLS, CELLS.genes), draw_mixes(CELLS, 20)
    np.testing.assert_array_equal(mixed_profiles(whole, mixes, CELLS.genes), mixed_profiles(CELLS, mixes, CELLS.genes))


def test_depth_does_not_decide_a_mixture():
    doubled = CELLS.counts.multiply(np.where(np.arange(240) % 2, 4, 1)[:, None]).tocsr()
    deep = dataclasses.replace(CELLS, counts=doubled, library=CELLS.library * np.where(np.arange(240) % 2, 4, 1))
    mixes = draw_mixes(CELLS, 30)
    np.testing.assert_allclose(
        mixed_profiles(deep, mixes, CELLS.genes), mixed_profiles(CELLS, mixes, CELLS.genes), rtol=1e-6
    )


def test_targets_are_the_shares_of_the_classes():
    mixes = draw_mixes(CELLS, 400, seed=1)
    assert mixes.target.dtype == np.float32
    np.testing.assert_allclose(mixes.target.sum(axis=1), 1, atol=1e-6)
    for i, j, weight, target in zip(mixes.i, mixes.j, mixes.weight, mixes.target):
        one, other = CELLS.labels[i], CELLS.labels[j]
        assert target[one] == pytest.approx(1 if one == other else weight, abs=1e-6)
        assert (target > 0).sum() <= 2


@pytest.mark.parametrize("part", ["train", "held_out"])
def test_a_part_mixes_its_own_donors_only(part):
    mixes = draw_mixes(CELLS, 500, part)
    used = set(CELLS.donors[np.concatenate([mixes.i, mixes.j])])
    assert used == ({"D0"} if part == "held_out" else {"D1", "D2", "D3", "D4", "D5"})
    with pytest.raises(ValueError, match="neither train nor held_out"):
        draw_mixes(CELLS, 5, "test")


def test_classes_are_equally_frequent_or_as_they_are():
    kept = np.r_[0:60, 60:75, 120:180, 180:240]  # a quarter of the second class
    uneven = dataclasses.replace(
        CELLS,
        counts=CELLS.counts[kept],
        **{name: getattr(CELLS, name)[kept] for name in ("library", "labels", "donors", "held_out")},
    )
    cells = uneven.cells("train")
    shares = np.bincount(uneven.labels[cells]) / len(cells)
    for balanced, expected in ((True, [0.25] * 4), (False, shares)):
        mixes = draw_mixes(uneven, 20_000, balanced=balanced)
        for rows in (mixes.i, mixes.j):
            np.testing.assert_allclose(np.bincount(uneven.labels[rows]) / 20_000, expected, atol=0.015)
        assert len(np.unique(mixes.i)) == len(cells)
        assert kstest(mixes.weight, "uniform").pvalue > 0.01
        assert abs(np.corrcoef(uneven.labels[mixes.i], uneven.labels[mixes.j])[0, 1]) < 0.03


def test_a_bank_is_the_same_to_the_byte_and_the_beginning_of_a_larger_one():
    def digest(mixes):
        return hashlib.sha256(b"".join(part.tobytes() for part in vars(mixes).values())).hexdigest()

    assert digest(draw_mixes(CELLS, 100, seed=5)) == digest(draw_mixes(CELLS, 100, seed=5))
    assert digest(draw_mixes(CELLS, 100, seed=5)) != digest(draw_mixes(CELLS, 100, seed=6))
    short, long = draw_mixes(CELLS, 100, seed=5), draw_mixes(CELLS, 1000, seed=5)
    for name, part in vars(long).items():
        np.testing.assert_array_equal(part[:100], getattr(short, name))


def test_without_mixing_the_same_cells_stand_alone():
    mixes, alone = draw_mixes(CELLS, 60, seed=2), draw_mixes(CELLS, 60, seed=2, mixing=False)
    np.testing.assert_array_equal(mixes.i, alone.i)
    np.testing.assert_array_equal(alone.target, np.eye(4, dtype=np.float32)[CELLS.labels[alone.i]])
    shares = CELLS.counts.toarray() / CELLS.library[:, None] * 1e4
    np.testing.assert_allclose(mixed_profiles(CELLS, alone, CELLS.genes), shares[alone.i], rtol=1e-6)


def test_impossible_mixtures_are_named():
    with pytest.raises(InputError, match="0 mixtures were asked for"):
        draw_mixes(CELLS, 0)
    with pytest.raises(InputError, match="1 genes of the panel are not in the atlas, the first is TP53"):
        mixed_profiles(CELLS, draw_mixes(CELLS, 2), ["G001", "TP53"])
