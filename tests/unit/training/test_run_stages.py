"""What one run hands on to another: weights to start from, vectors to read."""

import numpy as np
import pandas as pd
import pytest
import torch
from region_examples import region_split
from tile_examples import tile_store
from torch import nn

from histofuse.io import InputError
from histofuse.models.image_survival import ImageSurvival
from histofuse.models.pathomic_fusion import PathomicFusion
from histofuse.models.snn import SNN
from histofuse.training.dataset import load_split
from histofuse.training.run import Job, run, run_digest, run_vectors
from histofuse.training.vectors import RunVectors, vectors_table
from histofuse.training.weights import entry_of, read_starts, starting_weights, write_weights

SURVIVAL = {"kind": "survival"}
TRAINING = {"epochs": 2, "lr": 1e-9, "batch_size": 16}
T2T = {"image": {"encoder": {"width": 8, "depth": 1, "heads": 2, "token_width": 4}, "project": 5}}


def job(folder, name="c.pt", **options):
    return Job(number=0, seed=1, threads=1, checkpoint=folder / name, digest="d", **options)


@pytest.fixture
def image_run(tmp_path):
    """A run on regions, two of each case with nine crops, and its vectors as a file."""
    split = region_split(tmp_path, crop_px=32, stride_px=8)
    entry = {"params": T2T, "training": TRAINING}
    weights = run(ImageSurvival, entry, SURVIVAL, split, job(tmp_path)).weights
    vectors = run_vectors(ImageSurvival, entry, SURVIVAL, split, weights, threads=1)
    vectors.to_parquet(tmp_path / "vectors.parquet")
    return split, weights, vectors


def cohort_of(split):
    cases = split.rows.drop_duplicates("case_id")
    first = cases.index
    population = pd.DataFrame(
        {
            "case_id": cases["case_id"],
            "time_days": split.target.time[first],
            "event": split.target.event[first],
            "label": pd.NA,
        }
    )
    genes = pd.DataFrame(
        {"case_id": cases["case_id"], "A": np.arange(len(cases)) % 7.0, "B": np.arange(len(cases)) % 5}
    )
    return population, cases[["case_id", "part"]].assign(split=0), {"expression": genes}


def test_each_crop_of_a_region_has_the_vector_that_the_model_makes_of_it(image_run):
    split, weights, vectors = image_run
    assert list(vectors) == ["case_id", "region", "crop", "image"]
    assert len(vectors) == len(split.rows) * 9
    model = ImageSurvival(split.shapes, 1, **T2T)
    model.load_state_dict({name: torch.from_numpy(values) for name, values in weights.items()})
    region = split.regions.cut(np.array([3]), split.regions.corners[[4]])[0]
    pixels = (torch.from_numpy(region).permute(2, 0, 1) / 255 - torch.tensor(split.regions.mean).view(3, 1, 1)) / (
        torch.tensor(split.regions.sd).view(3, 1, 1)
    )
    expected = model.eval().image({"regions": pixels[None].float()})[0].detach()
    np.testing.assert_allclose(vectors.query("region == 3 and crop == 4")["image"].iloc[0], expected, atol=1e-4)


def test_a_fusion_is_trained_on_vectors_and_starts_from_the_snn_of_its_split(image_run, tmp_path):
    """Every crop is a row; a case's risk is the mean of its rows. At a learning rate of almost 0 the SNN stays."""
    population, splits, tables = cohort_of(image_run[0])
    snn_split = load_split(population, splits, 0, SURVIVAL, {"expression": {}}, tables)
    snn = run(SNN, {"training": TRAINING}, SURVIVAL, snn_split, job(tmp_path, "snn.pt")).weights
    inputs = {"expression": {}, "images": {"run": "cnn", "vectors": ["image"]}}
    vectors = {"images": RunVectors(tmp_path / "vectors.parquet", ["image"])}
    split = load_split(population, splits, 0, SURVIVAL, inputs, tables, vectors=vectors)
    assert len(split.rows) == 24 * 2 * 9
    assert split.shapes == {"expression": (2,), "images.image": (5,)}
    stages = [{"model": "snn", "weights": {"encoder.": "genomic."}}]
    entry = {"params": {"vectors": "images.image"}, "training": TRAINING, "starts_from": stages}
    write_weights(snn, tmp_path / "weights.safetensors", {"training": TRAINING}, snn_split)
    assert entry_of(tmp_path / "weights.safetensors") == {"training": TRAINING}
    starts = read_starts([tmp_path / "weights.safetensors"], entry, split)
    assert {name.partition(".")[0] for name in starts} == {"genomic"}
    result = run(PathomicFusion, entry, SURVIVAL, split, job(tmp_path, "fusion.pt", starts=starts))
    assert len(result.predictions) == 24
    np.testing.assert_allclose(result.weights["genomic.0.weight"], snn["encoder.0.weight"], atol=1e-6)
    assert run_digest(entry, SURVIVAL, split, 0, "", starts) != run_digest(entry, SURVIVAL, split, 0, "")


def test_weights_that_do_not_fit_are_named(image_run, tmp_path):
    population, splits, tables = cohort_of(image_run[0])
    split = load_split(population, splits, 0, SURVIVAL, {"expression": {}}, tables)
    weights = {"encoder.0.weight": np.zeros((3, 2), np.float32), "scaling.expression.mean": np.zeros(2)}
    stage = {"model": "snn", "weights": {"encodr.": "genomic."}}
    with pytest.raises(
        InputError, match=r"starts_from: snn: weights: no name begins with 'encodr\.'; there are encoder"
    ):
        starting_weights([stage], [weights], [{}], split)
    with pytest.raises(InputError, match="starts_from: snn: it read other columns of expression than this model"):
        starting_weights([{"model": "snn"}], [weights], [{"expression": ["B", "A"]}], split)
    assert set(starting_weights([{"model": "snn"}], [weights], [{}], split)) == {"encoder.0.weight"}
    for name, there in (("encoder.0.weight", r"\(64, 2\)"), ("other.weight", "nothing of that name")):
        starts = {name: np.zeros((3, 2), np.float32)}
        with pytest.raises(InputError, match=rf"starts_from: {name} has shape \(3, 2\), the model has {there}"):
            run(SNN, {"training": TRAINING}, SURVIVAL, split, job(tmp_path, "other.pt", starts=starts))


def test_vectors_that_are_not_there_are_named(image_run, tmp_path):
    split, _, vectors = image_run
    with pytest.raises(InputError, match="vectors: picture: the run's model makes no such vectors; there are image"):
        RunVectors(tmp_path / "vectors.parquet", ["picture"])
    of_run = RunVectors(tmp_path / "vectors.parquet", ["image"])
    with pytest.raises(InputError, match="its vectors stand for a crop each, the rows of this model do not"):
        of_run.blocks(split.rows)
    rows = vectors.drop(columns="image")
    rows.loc[5, "crop"] = 99
    with pytest.raises(InputError, match=r"no vector for case_id TCGA-00, region 0, crop 99"):
        of_run.blocks(rows)
    with pytest.raises(InputError, match="SNN has no method vectors"):
        run_vectors(SNN, {}, SURVIVAL, split, {}, 1)


class Student(nn.Module):
    """Reads a bag, and in training the teacher's vector beside it."""

    def __init__(self, shapes, outputs):
        super().__init__()
        assert shapes == {"tiles": (2,)}
        self.head = nn.Linear(2, outputs)

    def forward(self, batch):
        assert ("teacher.logits" in batch) == self.training
        return self.head(batch["tiles"].mean(1))


def test_a_prediction_needs_nothing_that_is_for_training_only(tmp_path):
    cases = [f"C{k:02}" for k in range(24)]
    rng = np.random.default_rng(0)
    store = tile_store(tmp_path, {case: rng.normal(size=(3, 2)) for case in cases})
    rows = pd.DataFrame({"case_id": cases, "slide_id": cases})
    vectors_table(rows, 1, {"logits": rng.normal(size=(24, 4))}).to_parquet(tmp_path / "vectors.parquet")
    population = pd.DataFrame({"case_id": cases, "time_days": rng.exponential(size=24), "event": 1, "label": pd.NA})
    splits = pd.DataFrame({"split": 0, "case_id": cases, "part": ["train"] * 16 + ["test"] * 8})
    inputs = {"tiles": {}, "teacher": {"run": "teacher", "vectors": ["logits"], "training_only": True}}
    vectors = {"teacher": RunVectors(tmp_path / "vectors.parquet", ["logits"])}
    split = load_split(population, splits, 0, SURVIVAL, inputs, {}, bags={"tiles": store}, vectors=vectors)
    assert split.blocks["teacher.logits"].shape == (24, 4)
    assert len(run(Student, {"training": TRAINING}, SURVIVAL, split, job(tmp_path)).predictions) == 24


def test_shuffled_inputs_come_from_one_other_case_of_the_same_part(tmp_path):
    cases = [f"C{k:02}" for k in range(24)]
    store = tile_store(tmp_path, {case: np.full((2, 2), k) for k, case in enumerate(cases)})
    genes = pd.DataFrame({"case_id": cases, "A": np.arange(24.0)})
    population = pd.DataFrame({"case_id": cases, "time_days": np.arange(1.0, 25), "event": 1, "label": pd.NA})
    splits = pd.DataFrame({"split": 3, "case_id": cases, "part": ["train"] * 16 + ["test"] * 8})

    def numbers(**shuffled):
        inputs = {"tiles": {"shuffled": shuffled.get("tiles", False)}}
        inputs["expression"] = {"shuffled": shuffled.get("genes", False), "standardise": False}
        split = load_split(population, splits, 3, SURVIVAL, inputs, {"expression": genes}, bags={"tiles": store})
        case = split.rows["case_id"].str[1:].astype(int).to_numpy()
        np.testing.assert_array_equal(split.target.time, case + 1.0)
        order = np.argsort(case)
        of_slide = np.array([store.features(slide)[0, 0] for slide in split.rows["slide_id"]])
        return split.blocks["expression"][order, 0], of_slide[order]

    own = np.arange(24.0)
    genes_alone, slides = numbers(genes=True)
    np.testing.assert_array_equal(slides, own)
    assert (genes_alone != own).all()
    assert set(genes_alone[:16]) == set(own[:16])  # the test part's genes stay in the test part
    both_genes, both_slides = numbers(genes=True, tiles=True)
    np.testing.assert_array_equal(both_genes, both_slides)
    np.testing.assert_array_equal(both_genes, genes_alone)
