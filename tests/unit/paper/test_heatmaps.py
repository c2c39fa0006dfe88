"""Heatmaps: which slides, where their tiles lie, what is drawn."""

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from histofuse.io import InputError
from histofuse.paper.heatmaps import (
    Panel,
    Place,
    choose_slides,
    find_places,
    heatmap_figure,
    make_panels,
    note_on,
    paint,
    read_place,
    stride,
)
from histofuse.paper.style import save_figure

SIDE = 100


def grid(columns, rows, every=1):
    x, y = np.meshgrid(np.arange(columns) * SIDE, np.arange(rows) * SIDE)
    return np.stack([x.ravel(), y.ravel()], axis=1)[::every]


def place(coords, thumbnail=None):
    return Place(coords, SIDE, 2000, 1000, 0.5, thumbnail)


def write_slide(folder, slide_id, coords, thumbnail=True, **attributes):
    folder.mkdir(exist_ok=True)
    with h5py.File(folder / f"{slide_id}.h5", "w") as file:
        file["features"] = np.zeros((len(coords), 2), np.float32)
        file["coords"] = coords
        file["coords"].attrs.update(attributes)
    if thumbnail:
        Image.new("RGB", (200, 100), "pink").save(folder / f"{slide_id}.thumbnail.jpg")


def predictions(n=10, classes=None):
    """Test cases C0 … with rising risk and one training case of the highest."""
    frame = pd.DataFrame({"case_id": [f"C{k}" for k in range(n + 1)], "part": ["test"] * n + ["train"]})
    frame["risk"] = np.nan if classes else np.arange(n + 1.0)
    frame["probabilities"] = (
        [np.array([0.5 - 0.04 * k, 0.5 + 0.04 * k]) for k in range(n + 1)] if classes else [None] * (n + 1)
    )
    return frame


def slides_of(cases):
    return pd.DataFrame({"slide_id": [f"{case}-DX1" for case in cases], "case_id": cases})


def test_slides_at_both_ends_of_the_prediction_are_chosen():
    chosen = choose_slides(predictions(), slides_of([f"C{k}" for k in range(10)]))
    assert chosen["case_id"].tolist() == ["C9", "C8", "C1", "C0"]
    assert chosen["end"].tolist() == ["highest", "highest", "lowest", "lowest"]
    assert chosen["percentile"].tolist() == [95, 85, 15, 5]


def test_outcomes_do_not_matter_for_the_choice():
    given = predictions()
    slides = slides_of([f"C{k}" for k in range(10)])
    outcome = given.assign(time_days=np.arange(11.0)[::-1], event=[0, 1] * 5 + [0], label=1)
    pd.testing.assert_frame_equal(choose_slides(given, slides), choose_slides(outcome, slides))


def test_slides_that_cannot_be_shown_make_room_for_the_next():
    chosen = choose_slides(predictions(), slides_of(["C1", "C2", "C5", "C6", "C7", "C8"]))
    assert chosen["case_id"].tolist() == ["C8", "C7", "C2", "C1"]
    assert chosen["percentile"].tolist() == [85, 75, 25, 15]  # still among all test cases


@pytest.mark.parametrize(("n", "ends"), [(1, ["highest"]), (2, ["highest", "lowest"]), (3, ["highest", "lowest"])])
def test_few_slides_are_each_shown_once(n, ends):
    chosen = choose_slides(predictions(n), slides_of([f"C{k}" for k in range(n)]))
    assert chosen["case_id"].is_unique
    assert len(chosen) == n
    assert sorted(set(chosen["end"])) == ends


def test_a_case_with_two_slides_is_shown_once():
    slides = pd.DataFrame({"slide_id": ["B", "A", "C"], "case_id": ["C9", "C9", "C0"]})
    assert choose_slides(predictions(), slides)["slide_id"].tolist() == ["A", "C"]


def test_classes_are_chosen_by_how_sure_the_prediction_is():
    chosen = choose_slides(predictions(classes=True), slides_of([f"C{k}" for k in range(10)]))
    assert chosen["case_id"].tolist() == ["C9", "C8", "C1", "C0"]
    assert chosen["label"].tolist() == [1, 1, 1, 0]
    np.testing.assert_allclose(chosen["value"], [0.86, 0.82, 0.54, 0.5])


def test_no_slide_with_coordinates_is_an_error():
    with pytest.raises(InputError, match="no slide of the test part has coordinates"):
        choose_slides(predictions(), slides_of([]))


def test_tiles_are_painted_where_they_lie():
    values = np.array([1.0, 2.0, 3.0])
    coords = np.array([[0, 0], [SIDE, 0], [0, SIDE]])
    raster = paint(place(coords), values, np.array([0, 0, 3 * SIDE, 2 * SIDE]), (4, 6))
    expected = [[1, 1, 2, 2, np.nan, np.nan]] * 2 + [[3, 3, np.nan, np.nan, np.nan, np.nan]] * 2
    np.testing.assert_array_equal(raster, expected)


def test_a_thinned_grid_is_painted_without_gaps():
    thinned = place(grid(30, 20, every=4))
    assert stride(thinned) == pytest.approx(4, rel=0.1)
    raster = paint(thinned, np.ones(len(thinned.coords)), np.array([0, 0, 30 * SIDE, 20 * SIDE]), (40, 60))
    assert np.isfinite(raster).mean() > 0.98


@pytest.mark.parametrize("coords", [grid(30, 20), grid(1, 5), grid(1, 1), np.vstack([grid(4, 4), grid(4, 4) + 1500])])
def test_a_whole_grid_has_stride_one(coords):
    assert stride(place(coords)) == 1


def test_slides_are_found_where_they_have_coordinates(tmp_path):
    attributes = {"patch_size_level0": SIDE, "level0_width": 2000, "level0_height": 1000, "level0_mpp": 0.5}
    write_slide(tmp_path / "a", "S1", grid(3, 2), **attributes)
    write_slide(tmp_path / "b", "S2", grid(3, 2)[None], thumbnail=False, patch_size_level0=SIDE)
    write_slide(tmp_path / "b", "S3", grid(3, 2))  # coordinates, but nothing says how large a tile is
    with h5py.File(tmp_path / "b" / "S4.h5", "w") as file:
        file["features"] = np.zeros((3, 2))
    folders = [tmp_path / "a", tmp_path / "b"]
    found = find_places(folders, ["S1", "S2", "S3", "S4", "S5"])
    assert found == {"S1": tmp_path / "a" / "S1.h5", "S2": tmp_path / "b" / "S2.h5"}
    whole, bare = read_place(found["S1"]), read_place(found["S2"])
    assert (whole.side, whole.width, whole.height, whole.mpp) == (SIDE, 2000, 1000, 0.5)
    assert whole.thumbnail.shape == (100, 200, 3)
    assert (bare.width, bare.height, bare.thumbnail) == (300, 200, None)
    assert np.isnan(bare.mpp)
    np.testing.assert_array_equal(bare.coords, grid(3, 2))


def test_a_file_that_is_no_hdf5_is_named(tmp_path):
    (tmp_path / "S1.h5").write_text("features")
    with pytest.raises(InputError, match=r"S1\.h5: cannot be read as HDF5"):
        find_places([tmp_path], ["S1"])


def test_coordinates_of_another_shape_are_named(tmp_path):
    write_slide(tmp_path, "S1", np.zeros((4, 3), int), patch_size_level0=SIDE)
    with pytest.raises(InputError, match=r"S1\.h5: 'coords' must be \[tiles, 2\], not \(4, 3\)"):
        read_place(tmp_path / "S1.h5")


@pytest.fixture
def scored(tmp_path):
    """Tile scores of four slides of three tiles, the first of which stands twice in a bag of four."""
    attention = [0.4, 0.1, 0.5]
    frames = []
    for k in range(4):
        write_slide(tmp_path, f"C{k}-DX1", grid(3, 1), patch_size_level0=SIDE, level0_mpp=0.5)
        about = {"slide_id": f"C{k}-DX1", "case_id": f"C{k}", "part": "test", "tile": range(3), "count": [2.0, 1, 1]}
        frames.append(pd.DataFrame(about | {"attention": attention, "log_hazard": [k - 1.0, 0.0, 1.0]}))
    return tmp_path, pd.concat(frames, ignore_index=True)


def panels_of(scored, **options):
    folder, scores = scored
    return make_panels(scores, predictions(4, **options), find_places([folder], scores["slide_id"].unique()))


def test_attention_is_shown_per_place_in_the_bag(scored):
    for panel in panels_of(scored):
        np.testing.assert_allclose(panel.scores["attention"], [0.8, 0.4, 2.0])  # 4 × 0.4/2, 4 × 0.1, 4 × 0.5
    assert [panel.scores["log_hazard"][0] for panel in panels_of(scored)] == [2, 1, 0, -1]


def test_titles_say_which_slide_and_what_is_predicted(scored):
    folder, scores = scored
    uuid = "C3-DX1.DC17B5F6-BF5F-4829-8DDF-A1B76BF412B9"
    write_slide(folder, uuid, grid(3, 1), patch_size_level0=SIDE)
    scores = scores.replace("C3-DX1", uuid)
    files = find_places([folder], scores["slide_id"].unique())
    given = predictions(4).assign(risk=[-1.5, 0, 1, 2.25, 9])
    titles = [panel.title for panel in make_panels(scores, given, files)]
    assert titles[0] == "C3-DX1: highest predicted risk, 2.25 (percentile 88 of the test cases)"
    assert titles[3] == "C0-DX1: lowest predicted risk, −1.50 (percentile 12 of the test cases)"
    titles = [panel.title for panel in make_panels(scores, predictions(4, classes=True), files, ["grade 2", "grade 3"])]
    assert titles[0] == "C3-DX1: predicted grade 3, probability 0.62 (percentile 88 of the test cases' certainty)"


def test_scores_of_other_tiles_are_refused(scored):
    folder, scores = scored
    with pytest.raises(InputError, match=r"C3-DX1\.h5: 3 tiles, but 2 have scores"):
        panels_of((folder, scores[scores["tile"] < 2]))


def test_the_note_says_what_is_shown_and_what_could_not_be(scored):
    panels = panels_of(scored)
    note = note_on(panels, hidden=2, of=9)
    for part in ("highest and the lowest predicted risk", "Attention:", "Log hazard:", "2 of 9 test slides have no"):
        assert part in note
    assert "no tile coordinates" not in note_on(panels, hidden=0, of=9)
    assert "surest" in note_on(panels, 0, 9, classes=True)


def texts(figure):
    axes = [text.get_text() for axes in figure.axes for text in (*axes.texts, axes.xaxis.label)]
    return [text.get_text() for text in figure.texts] + axes


def test_a_figure_has_a_row_per_slide_and_shared_scales(scored):
    panels = panels_of(scored)
    figure = heatmap_figure(panels, "AttMIL", "A note.")
    assert len(figure.axes) == 4 * 3 + 2  # thumbnail and two scores per slide, and a bar per score
    for column in (1, 2):
        heat = [figure.axes[3 * row + column].images[-1] for row in range(4)]
        assert len({(image.norm.vmin, image.norm.vmax) for image in heat}) == 1
    risk = figure.axes[2].images[-1].norm
    assert risk.vmin == -risk.vmax
    shown = texts(figure)
    assert {"AttMIL", "A note.", "Slide, with scale bar", panels[0].title} <= set(shown)
    assert {"Attention\n1×: equal weights", "Log hazard\n0: the average training slide"} <= set(shown)


def test_scale_bars_are_of_a_round_length_in_mm():
    figure = heatmap_figure([Panel("S", place(grid(10, 10)), {"attention": np.ones(100)})], "", "")
    assert "0.1 mm" in texts(figure)  # of about 0.6 mm in all
    (bar,) = figure.axes[0].lines
    assert np.ptp(bar.get_xdata()) == pytest.approx(200)


def test_without_resolution_or_thumbnail_there_is_no_bar_and_a_word_about_it():
    bare = Place(grid(10, 10), SIDE, 2000, 1000, float("nan"), None)
    figure = heatmap_figure([Panel("S", bare, {"density": np.ones(100)})], "", "")
    assert "no thumbnail" in texts(figure)
    assert "Density" in texts(figure)
    assert not figure.axes[0].lines


def test_the_same_figure_has_the_same_bytes(scored, tmp_path):
    for name in ("a", "b"):
        save_figure(heatmap_figure(panels_of(scored), "t", "n"), tmp_path / f"{name}.svg", tmp_path / f"{name}.png")
    for suffix in ("svg", "png"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
