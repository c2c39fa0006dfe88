"""What a run predicts per slide: as cases are, each slide for itself, from tiles and from regions of several slides."""

import numpy as np
import pandas as pd
import pytest
from region_examples import region_split
from tile_examples import tile_store

from histofuse.evaluation.predictions import COLUMNS, check_predictions
from histofuse.io import read_table, write_table
from histofuse.models.attmil import AttMIL
from histofuse.models.linear import LinearModel
from histofuse.training.dataset import Split, Target
from histofuse.training.heads import Head
from histofuse.training.run import Job, run

TASKS = {
    "survival": {"kind": "survival"},
    "discrete": {"kind": "survival", "loss": {"name": "discrete", "intervals": 3}},
    "grading": {"kind": "classification", "classes": {"2": [2], "3": [3]}},
}
N = 30


def split_of_slides(folder, kind):
    """Case k has 1 + k mod 3 slides, in no order; two thirds of the cases are to train on."""
    rng = np.random.default_rng(0)
    case = rng.permutation(np.repeat(np.arange(N), 1 + np.arange(N) % 3))
    slides = [f"S{k:03}" for k in range(len(case))]
    store = tile_store(folder, {slide: rng.normal(size=(2, 4)) for slide in slides})
    parts = np.where(np.arange(N) < 20, "train", "test")
    rows = pd.DataFrame({"case_id": [f"C{k:02}" for k in case], "part": parts[case], "slide_id": slides})
    time, event = rng.exponential(size=N) * 100, (rng.random(N) < 0.8).astype(np.int64)
    classes = kind == "classification"
    label = rng.integers(0, 2, N)[case] if classes else np.zeros(0, np.int64)
    return Split(rows, Target(kind, time[case], event[case], label, 2 * classes), {}, {"tiles": store})


def job(folder):
    return Job(number=2, seed=1, threads=1, checkpoint=folder / "c.pt", digest="d")


@pytest.mark.parametrize("task", TASKS)
def test_a_case_is_the_mean_of_its_slides(tmp_path, task):
    task = TASKS[task]
    split = split_of_slides(tmp_path, task["kind"])
    result = run(AttMIL, {"training": {"epochs": 2, "lr": 0.01}}, task, split, job(tmp_path))
    for name, frame in {"slides": result.slides, "cases": result.predictions}.items():
        write_table(frame, tmp_path / f"{name}.parquet")
    slides, cases = (read_table(tmp_path / f"{name}.parquet") for name in ("slides", "cases"))
    cases = cases.set_index("case_id")
    check_predictions(slides, task["kind"], unit="slide_id")
    assert slides[["slide_id", "case_id", "part"]].to_numpy().tolist() == (
        split.rows[["slide_id", "case_id", "part"]].to_numpy().tolist()
    )
    assert slides["survival"].isna().all()
    assert slides["risk"].dtype == np.float32
    for name in ("time_days", "event", "label", "split", "seed"):
        assert slides[name].equals(cases.loc[slides["case_id"], name].reset_index(drop=True)), name
    values = slides["risk"] if task["kind"] == "survival" else slides["probabilities"]
    means = values.groupby(slides["case_id"]).mean()
    expected = cases.loc[means.index, values.name]
    np.testing.assert_allclose(np.stack(means.to_numpy()), np.stack(expected.to_numpy()), atol=1e-6)
    assert len({np.float32(v).tobytes() for v in values}) == len(slides)  # each slide for itself


def test_a_slide_is_what_its_crops_and_regions_say(tmp_path):
    split = region_split(tmp_path, n_cases=6, per_case=4)
    split.rows["slide_id"] = [f"S{k // 2}" for k in range(24)]
    outputs = np.random.default_rng(0).normal(size=(24 * 4, 1))
    head = Head(split.target, {"name": "cox"}, {"crops": "median", "rows": "max"})
    slides = head.slide_predictions(outputs, split, 0, 0)
    assert slides["slide_id"].tolist() == [f"S{k}" for k in range(12)]
    expected = np.median(outputs.reshape(12, 2, 4), axis=2).max(axis=1)
    np.testing.assert_allclose(slides["risk"], expected, rtol=1e-6)


def test_a_model_whose_rows_are_cases_predicts_no_slide(tmp_path):
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"case_id": [f"C{k:02}" for k in range(N)], "part": ["train"] * 20 + ["test"] * 10})
    target = Target("survival", rng.exponential(size=N), np.ones(N, np.int64), np.zeros(0, np.int64))
    blocks = {"genes": rng.normal(size=(N, 3)).astype(np.float32)}
    result = run(LinearModel, {}, TASKS["survival"], Split(rows, target, blocks), job(tmp_path))
    write_table(result.slides, tmp_path / "slides.parquet")
    slides = read_table(tmp_path / "slides.parquet")
    assert slides.empty
    assert set(slides) == {*COLUMNS, "slide_id"}
