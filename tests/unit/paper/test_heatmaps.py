"""Heatmaps: which slides, where their tiles lie, what is drawn."""

import numpy as np
import pandas as pd
import pytest
from slide_examples import SIDE, grid, place, predictions, write_slide

from histofuse.io import InputError
from histofuse.paper.heatmaps import Panel, heatmap_figure, make_panels, note_on, paint, stride
from histofuse.paper.slide_places import Place, find_places
from histofuse.paper.style import save_figure


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


@pytest.fixture
def scored(tmp_path):
    """Tile scores of four slides of three tiles, the first of which stands twice in a bag of four."""
    attention = [0.4, 0.1, 0.5]
    frames = []
    for k in range(4):
        write_slide(tmp_path, f"C{k}-DX1", grid(3, 1), patch_size_level0=SIDE, level0_mpp=0.5)
        about = {"slide_id": f"C{k}-DX1", "case_id": f"C{k}", "part": "test", "tile": range(3), "stored": 3}
        about["count"] = [2.0, 1, 1]
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
    with pytest.raises(InputError, match=r"C3-DX1\.h5: 3 tiles, but the run has read a slide of 4; encode the slides"):
        panels_of((folder, scores.assign(stored=4)))


def test_tiles_that_a_map_leaves_out_are_left_out(scored):
    folder, scores = scored
    panel = panels_of((folder, scores[scores["tile"] != 1]))[0]
    np.testing.assert_array_equal(panel.place.coords, [[0, 0], [2 * SIDE, 0]])
    np.testing.assert_array_equal(panel.scores["log_hazard"], [2, 1])


def test_holes_in_tissue_do_not_make_tiles_larger():
    holes = np.delete(grid(10, 10), np.arange(3, 100, 7), axis=0)
    assert stride(place(holes)) == 1


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
    assert {"AttMIL", "A note.", "Slide, with scale bar", "Attention", "Log hazard", panels[0].title} <= set(shown)
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


def test_kinds_of_attention_stand_side_by_side_on_one_scale():
    strong, weak = np.geomspace(0.1, 10, 100), np.geomspace(0.5, 2, 100)
    scores = {"attention_tumour": strong, "attention_microenvironment": weak, "log_hazard": np.zeros(100)}
    figure = heatmap_figure([Panel("S", place(grid(10, 10)), scores)], "KS-Fusion", "")
    shown = texts(figure)
    for heading in ("Attention: tumour", "Attention: microenvironment", "Log hazard"):
        assert shown.count(heading) == 1
    assert shown.count("Attention\n1×: equal weights") == 1  # one bar for both
    tumour, microenvironment, _ = (axes.images[-1] for axes in figure.axes[1:4])
    assert (tumour.norm.vmin, tumour.norm.vmax) == (microenvironment.norm.vmin, microenvironment.norm.vmax)
    assert tumour.norm.vmax > 5
    assert len(figure.axes) == 4 + 2
    note = note_on([Panel("S", place(grid(10, 10)), scores)], 0, 1)
    assert "a tile's share of what the slide's tiles get of each kind" in note
