"""Which slides figures show, and where their tiles lie."""

import h5py
import numpy as np
import pandas as pd
import pytest
from slide_examples import SIDE, grid, predictions, slides_of, write_slide

from histofuse.io import InputError
from histofuse.paper.slide_places import choose_slides, find_places, read_place


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
