"""Permutation importance: how far parts move, what that costs, which genes; for tables, tiles and regions."""

from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from region_examples import region_split
from tile_examples import tile_store
from torch import nn

from histofuse.evaluation.survival import harrell_c
from histofuse.io import InputError
from histofuse.models.ks_fusion import KSFusion
from histofuse.models.output import Output
from histofuse.models.path_gptomic import PathGPTOmic
from histofuse.models.snn import SNN
from histofuse.training.dataset import Split, Target
from histofuse.training.gene_importance import CANDIDATES, WHOLE, gene_importance, inputs_of
from histofuse.training.scaling import BlockScaler

SURVIVAL = {"kind": "survival"}
GENES = {"tumour": {"from": "expression"}, "microenvironment": {"from": "expression"}}


class Linear(nn.Module):
    """A linear branch per table, without a bias; tiles, if there are any, add the mean of their first feature."""

    def __init__(self, shapes, outputs):
        super().__init__()
        tables = {name: width for name, (width,) in shapes.items() if not name.startswith("tiles")}
        self.of = nn.ModuleDict({name: nn.Linear(width, outputs, bias=False) for name, width in tables.items()})

    def forward(self, batch):
        parts = {name: layer(batch[name]) for name, layer in self.of.items()}
        if "tiles" in batch:
            count = batch["tiles_count"]
            mean = (batch["tiles"][..., 0] * count).sum(1) / count.sum(1)
            parts["image"] = mean.unsqueeze(1).expand_as(next(iter(parts.values())))
        return Output(sum(parts.values()), parts)


def make_split(n_test=12, widths=(3, 4), classes=0, store=None, slides=None):
    """Cases C00 … of which the last `n_test` are the test part; with a store its slides are the rows."""
    rng = np.random.default_rng(0)
    cases = [f"C{k:02}" for k in range(20 + n_test)]
    rows = pd.DataFrame({"case_id": cases, "part": ["train"] * 20 + ["test"] * n_test})
    if store is not None:
        rows = rows.merge(store.slides_of(cases), on="case_id")
    case = pd.factorize(rows["case_id"])[0]
    blocks, scalers = {}, {}
    for name, width in zip(GENES, widths):
        table = pd.DataFrame(
            rng.normal(size=(len(cases), width)), columns=[f"{name[0].upper()}{k}" for k in range(width)]
        )
        scalers[name] = BlockScaler().fit(table)
        blocks[name] = scalers[name].apply(table)[case]
    time, event = rng.exponential(size=len(cases))[case], np.ones(len(case), np.int64)
    label = rng.integers(0, classes, len(cases))[case] if classes else np.zeros(0, np.int64)
    kind = "classification" if classes else "survival"
    bags = {"tiles": store} if store is not None else {}
    return Split(rows, Target(kind, time, event, label, classes), blocks, bags, scalers=scalers)


def weights_of(model):
    return {name: value.detach().numpy() for name, value in model.state_dict().items()}


def importance(split, model=Linear, task=SURVIVAL, entry=None, weights=None, **options):
    entry = {"inputs": GENES} | (entry or {})
    if weights is None:
        torch.manual_seed(0)
        outputs = {"cox": 1, "discrete": 4}.get(entry.get("loss", {}).get("name", "cox"))
        weights = weights_of(model(split.shapes, split.target.classes or outputs, **entry.get("params", {})))
    return gene_importance(model, entry, task, split, weights, **options), weights


def mean_of(found, source, branch, column="", what="change"):
    chosen = (found["input"] == source) & (found["branch"] == branch) & (found["column"] == column)
    return found.loc[chosen, what].mean()


def test_a_branch_moves_by_the_mean_difference_of_two_cases():
    """Of all pairs, the limit of many permutations; and by a gene by that of its column."""
    split = make_split()
    found, weights = importance(split, repeats=150)
    part = split.blocks["tumour"][20:] @ weights["of.tumour.weight"][0]
    pairs = np.abs(part[:, None] - part[None, :])[~np.eye(12, dtype=bool)].mean()
    assert mean_of(found, "tumour", "tumour") == pytest.approx(pairs / part.std(), rel=0.08)
    gene = split.blocks["tumour"][20:, 1] * weights["of.tumour.weight"][0, 1]
    pairs = np.abs(gene[:, None] - gene[None, :])[~np.eye(12, dtype=bool)].mean()
    assert mean_of(found, "tumour", "tumour", "T1") == pytest.approx(pairs / part.std(), rel=0.08)


def test_the_other_branch_does_not_move_and_loses_nothing():
    found, _ = importance(make_split())
    other = found[(found["input"] == "tumour") & (found["branch"] == "microenvironment")]
    assert (other["change"] == 0).all()
    assert (other["intact"] == other["permuted"]).all()
    assert found.groupby(["input", "column", "branch"])["repeat"].agg(list).map(lambda r: r == list(range(10))).all()


def test_the_metric_is_that_of_each_branch_alone_and_of_the_whole():
    split = make_split()
    found, weights = importance(split)
    parts = {name: values[20:] @ weights[f"of.{name}.weight"][0] for name, values in split.blocks.items()}
    for branch, risk in (parts | {WHOLE: sum(parts.values())}).items():
        expected = harrell_c(risk, split.target.time[20:], split.target.event[20:])
        assert mean_of(found, "tumour", branch, what="intact") == pytest.approx(expected)
    assert set(found["metric"]) == {"harrell_c"}
    assert (found["n_train"] == 20).all()
    assert (found["n_test"] == 12).all()


def test_all_inputs_are_permuted_alike_and_every_time_the_same():
    first, second = (importance(make_split())[0] for _ in range(2))
    pd.testing.assert_frame_equal(first, second)
    same = make_split()
    same.blocks["microenvironment"] = same.blocks["tumour"]
    same.scalers["microenvironment"] = same.scalers["tumour"]
    same_weights = {f"of.{name}.weight": np.ones((1, 3), np.float32) for name in GENES}
    found, _ = importance(same, weights=same_weights)
    both = [found[(found["input"] == name) & (found["branch"] == name)]["change"].to_numpy() for name in GENES]
    np.testing.assert_array_equal(*both)


def test_genes_that_matter_are_found_among_many():
    split = make_split(widths=(60, 50))
    weights = {f"of.{name}.weight": np.zeros((1, width), np.float32) for name, width in zip(GENES, (60, 50))}
    weights["of.tumour.weight"][0] = 0.001
    weights["of.tumour.weight"][0, [7, 33, 59]] = [1, -3, 2]
    weights["of.microenvironment.weight"][0, 2] = 1
    found, _ = importance(split, weights=weights)
    genes = found[(found["input"] == "tumour") & (found["branch"] == "tumour") & (found["column"] != "")]
    assert genes["column"].nunique() == CANDIDATES
    ranked = genes.groupby("column")["change"].mean().sort_values(ascending=False)
    assert list(ranked.index[:3]) == ["T33", "T59", "T7"]
    assert ranked.iloc[3] < 0.01


def test_blocks_that_are_no_genes_are_permuted_whole_alone():
    split = make_split()
    found, _ = importance(split, entry={"inputs": {"tumour": {"from": "clinical"}, "microenvironment": {"run": "x"}}})
    assert set(found["column"]) == {""}
    assert set(found["input"]) == set(GENES)


def test_classes_are_judged_by_auc_and_a_constant_branch_has_no_change():
    split = make_split(n_test=30, classes=3)
    weights = {name: np.zeros((3, width), np.float32) for name, width in (("of.tumour.weight", 3), ("b", 4))}
    weights["of.microenvironment.weight"] = weights.pop("b")
    weights["of.tumour.weight"][:] = np.eye(3)
    found, _ = importance(split, task={"kind": "classification", "classes": dict.fromkeys("abc")}, weights=weights)
    assert set(found["metric"]) == {"macro_auc"}
    constant = found[found["branch"] == "microenvironment"]
    assert constant["change"].isna().all()
    assert (constant["permuted"] == 0.5).all()
    assert mean_of(found, "tumour", "tumour") > 1


def test_a_metric_that_the_test_part_does_not_have_is_absent():
    split = make_split()
    split.target.event[:] = np.array([1] * 20 + [0] * 12)
    found, _ = importance(split)
    assert found[["intact", "permuted"]].isna().all(axis=None)
    assert found["change"].notna().all()


@pytest.fixture
def slides(tmp_path):
    """32 cases with one to three slides, each of tiles that all say which slide it is."""
    cases = {f"S{k:02}-{j}": f"C{k:02}" for k in range(32) for j in range(1 + k % 3)}
    features = {slide: np.full((2 + k % 4, 5), k, np.float32) for k, slide in enumerate(cases)}
    return tile_store(tmp_path, features, cases, bag=6)


class Recorder(Linear):
    """Keeps what it was given: the first features of tiles and genes."""

    seen: ClassVar[list] = []

    def forward(self, batch):
        first = (batch[name].reshape(len(batch[name]), -1)[:, 0] for name in ("tiles", "tumour"))
        self.seen.append(torch.stack(list(first), dim=1))
        return super().forward(batch)


def test_a_case_with_several_slides_takes_those_of_one_other_case_in_turn(slides):
    split = make_split(store=slides)
    Recorder.seen.clear()
    importance(split, Recorder, entry={"inputs": {"tumour": {"from": "clinical"}, "tiles": {}}}, repeats=2)
    rows = split.part("test")
    given = (
        torch.cat(Recorder.seen).numpy()[: 3 * len(rows)].reshape(3, len(rows), 2)
    )  # as they are, tiles permuted twice
    case = split.rows["case_id"].to_numpy()
    np.testing.assert_array_equal(given[0, :, 0], rows)
    np.testing.assert_array_equal(given[1, :, 1], given[0, :, 1])  # genes stay
    assert not np.array_equal(given[1, :, 0], given[2, :, 0])
    taken = pd.DataFrame({"case": case[rows], "from": case[given[1, :, 0].astype(int)], "row": given[1, :, 0]})
    for of, some in taken.groupby("case"):
        (giver,) = set(some["from"])
        assert giver != of
        theirs = np.flatnonzero(case == giver)
        assert some["row"].tolist() == [theirs[j % len(theirs)] for j in range(len(some))]


def test_several_slides_of_a_case_count_as_their_mean(slides):
    """Tiles of another case move nothing but the image; a case's slides are averaged first."""
    split = make_split(store=slides)
    found, _ = importance(split, repeats=100)
    rows = split.part("test")
    part = pd.Series(rows.astype(float)).groupby(split.rows["case_id"].to_numpy()[rows]).mean().to_numpy()
    assert found["n_test"].eq(12).all()
    assert mean_of(found, "tiles", "tumour") == 0
    pairs = np.abs(part[:, None] - part[None, :])[~np.eye(12, dtype=bool)].mean()
    assert mean_of(found, "tiles", "image") == pytest.approx(pairs / part.std(), rel=0.1)


def test_branches_of_ks_fusion_read_their_own_genes_and_the_slide(tmp_path):
    rng = np.random.default_rng(3)
    features = {f"C{k:02}": rng.normal(size=(rng.integers(5, 20), 8)).astype(np.float32) for k in range(32)}
    split = make_split(store=tile_store(tmp_path, features, bag=36, order="raster"))
    params = {"bag": 36, "widths": (8, 16), "heads": 2, "head_width": 4}
    entry = {"inputs": GENES | {"tiles": {}}, "params": params, "loss": {"name": "discrete"}}
    found, _ = importance(split, KSFusion, entry=entry, repeats=2)
    change = found[found["column"] == ""].groupby(["input", "branch"])["change"].mean()
    for own, other in (list(GENES), list(GENES)[::-1]):
        assert change[own, own] > 0.01
        assert change[own, other] < 1e-5  # but for rounding
        assert change["tiles", own] > 0.01
    assert {column[0] for column in found.loc[found["input"] == "tumour", "column"] if column} == {"T"}


def test_images_of_regions_and_genes_move_their_own_branches(tmp_path):
    split = region_split(tmp_path, n_cases=12)
    table = pd.DataFrame(np.random.default_rng(1).normal(size=(24, 5)), columns=[f"G{k}_mut" for k in range(5)])
    split.scalers["alterations"] = BlockScaler().fit(table)
    split.blocks["alterations"] = split.scalers["alterations"].apply(table)
    params = {"embedding": None, "image": {"encoder": {"width": 12, "depth": 1, "heads": 2, "token_width": 8}}}
    entry = {"inputs": {"alterations": {}, "regions": {}}, "params": params}
    found, _ = importance(split, PathGPTOmic, entry=entry, repeats=2)
    change = found[found["column"] == ""].groupby(["input", "branch"])["change"].mean()
    assert max(change["alterations", "image"], change["regions", "genomic"]) < 1e-5  # but for rounding
    assert change["alterations", "genomic"] > 0.1
    assert change["regions", "image"] > 0.1
    assert "G0_mut" in set(found["column"])


class TwoHeads(Linear):
    def forward(self, batch):
        output = super().forward(batch)
        return Output(output.total, heads={"10x": output, "20x": output})


def test_heads_have_branches_of_their_own():
    found, _ = importance(make_split(), TwoHeads, repeats=1)
    assert list(found["branch"].unique()) == [WHOLE, *(f"{name}_{head}" for head in ("10x", "20x") for name in GENES)]


def test_inputs_given_in_training_alone_are_passed_over(slides):
    split = make_split(store=slides)
    split.bags["tiles_10x"] = slides
    split.blocks |= {f"teacher.{name}": np.zeros((len(split.rows), 2), np.float32) for name in ("logits", "features")}
    names = {"tiles": ["tiles", "tiles_10x"], "tumour": ["tumour"], "microenvironment": ["microenvironment"]}
    assert inputs_of(split) == names | {"teacher": ["teacher.logits", "teacher.features"]}
    split.training_only = frozenset({"teacher.logits", "teacher.features"})
    assert inputs_of(split) == names


@pytest.mark.parametrize(
    ("model", "entry", "n_test", "message"),
    [
        (SNN, None, 12, "the output of SNN is no sum of branches; take it off the table's `gene_importance`"),
        (Linear, {"inputs": {"tiles": {}}}, 12, "Linear reads no table; take it off"),
        (Linear, None, 1, "the test part has a single case"),
    ],
)
def test_what_cannot_be_permuted_is_refused(model, entry, n_test, message):
    with pytest.raises(InputError, match=message):
        importance(make_split(n_test), model, entry=entry)
