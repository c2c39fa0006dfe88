"""The figure of sampling points: where points are drawn, what is said of those off the map."""

import numpy as np
import pandas as pd
import pytest
from slide_examples import SIDE, grid, place, predictions, write_slide

from histofuse.io import InputError
from histofuse.paper.sampling_points import FACTORS, Panel, locate, make_panels, off_map, sampling_figure
from histofuse.paper.slide_places import find_places
from histofuse.paper.style import save_figure


def points(n_off=1, attention=(0.1, 0.2, 0.3, 0.4), **columns):
    """Four points on a map of three tiles in a row, the last ones off it."""
    frame = {"column": [0.0, 1.25, 1.8, 2.5], "row": [0.0, -0.25, 0.1, 0.0], "attention": attention}
    tile = [0, 1, 2, 2]
    tile[4 - n_off :] = [-1] * n_off
    return pd.DataFrame(frame | {"tile": tile, "stored": 3} | columns)


def test_a_point_is_drawn_in_its_tile_as_far_from_the_middle_as_from_that_of_the_place():
    found = locate(points(), place(grid(3, 1)))
    expected = pd.DataFrame({"x": [np.nan, 2.3 * SIDE, 1.75 * SIDE, 0.5 * SIDE], "y": [np.nan, 60.0, 25.0, 50.0]})
    pd.testing.assert_frame_equal(found[["x", "y"]], expected)  # the most attended first
    np.testing.assert_allclose(found["share"], [1.6, 1.2, 0.8, 0.4])


def test_drawn_points_stay_in_their_tiles():
    rng = np.random.default_rng(0)
    at, coords = rng.uniform(-0.5, 5.5, (500, 2)), grid(6, 6)
    tile = np.rint(at[:, 1]).astype(int) * 6 + np.rint(at[:, 0]).astype(int)
    frame = pd.DataFrame({"column": at[:, 0], "row": at[:, 1], "attention": 1 / 500, "tile": tile, "stored": 36})
    found = locate(frame, place(coords))[["x", "y"]].to_numpy()
    inside = (found >= coords[tile] - 1e-9) & (found <= coords[tile] + SIDE + 1e-9)
    assert inside.all()


@pytest.mark.parametrize(
    ("n_off", "attention", "said"),
    [
        (0, (0.1, 0.2, 0.3, 0.4), "all points lie on the map"),
        (1, (0.1, 0.2, 0.3, 0.4), "25 % of points, 40 % of attention off the map"),
        (2, (0.5, 0.499, 0.001, 0), "50 % of points, < 1 % of attention off the map"),
    ],
)
def test_points_off_the_map_are_counted(n_off, attention, said):
    assert off_map(locate(points(n_off, attention), place(grid(3, 1)))) == said


@pytest.fixture
def panels(tmp_path):
    frames = []
    for k in range(5):
        write_slide(tmp_path, f"C{k}-DX1", grid(3, 1), patch_size_level0=SIDE, level0_mpp=0.5)
        about = {"slide_id": f"C{k}-DX1", "case_id": f"C{k}"}
        frames += [points(k % 2, name="tumour", **about), points(0, name="microenvironment", **about)]
    table = pd.concat(frames, ignore_index=True)
    return make_panels(table, predictions(5), find_places([tmp_path], table["slide_id"].unique()))


def texts(figure):
    return [text.get_text() for text in figure.texts]


def test_four_slides_are_shown_with_the_points_of_each_subspace(panels):
    assert [panel.title.partition(":")[0] for panel in panels] == ["C4-DX1", "C3-DX1", "C1-DX1", "C0-DX1"]
    figure = sampling_figure(panels, "KS-Fusion", "A note.")
    assert len(figure.axes) == 4 * 3 + 1
    shown = texts(figure)
    assert {"KS-Fusion", "Slide, with scale bar", "Points: tumour", "Points: microenvironment", "A note."} <= set(shown)
    assert shown.count("25 % of points, 40 % of attention off the map") == 2
    assert shown.count("all points lie on the map") == 6
    tumour, microenvironment = (figure.axes[k].collections[0] for k in (1, 2))
    assert not np.array_equal(tumour.get_facecolor(), microenvironment.get_facecolor())
    sizes = figure.axes[1].collections[0].get_sizes()
    np.testing.assert_allclose(sizes / sizes.min(), [4, 3, 2, 1])  # in proportion to attention


def test_sizes_of_dots_have_limits(panels):
    one = points(0, (1e-6, 0, 0, 0.1))
    many = pd.concat([one] + [points(0, (0.01, 0.01, 0.01, 0.01))] * 20)
    sizes = {}
    for most in (0.1, 10.0):  # of 84 points: 8.4 equal shares, then 840
        many.iloc[3, 2] = most
        panel = Panel("S", panels[0].place, {"slide": locate(many, panels[0].place)})
        sizes[most] = sampling_figure([panel], "").axes[1].collections[0].get_sizes()
    smallest, largest = FACTORS[0] / 2, FACTORS[-1] * 2
    assert sizes[10.0].max() / sizes[10.0].min() == pytest.approx(largest / smallest)
    assert sizes[0.1].max() < sizes[10.0].max()


def test_slides_of_another_number_of_tiles_are_refused(tmp_path):
    write_slide(tmp_path, "C0-DX1", grid(4, 1), patch_size_level0=SIDE)
    table = points(name="tumour", slide_id="C0-DX1", case_id="C0")
    with pytest.raises(InputError, match=r"C0-DX1\.h5: 4 tiles, but the run has read a slide of 3; encode the slides"):
        make_panels(table, predictions(1), find_places([tmp_path], ["C0-DX1"]))


def test_the_same_figure_has_the_same_bytes_every_time(panels, tmp_path):
    for name in "ab":
        save_figure(sampling_figure(panels, "t"), tmp_path / f"{name}.svg", tmp_path / f"{name}.png")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
