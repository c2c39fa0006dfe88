"""Tiles arrive in order, the same from this process or from others, and damage keeps its reason."""

import os

import numpy as np
import pytest

from histofuse.slides import stream
from histofuse.slides.reader import SlideError, open_slide
from histofuse.slides.stain import StainMap, load_target
from histofuse.slides.stream import BAND_TILES, Readers, stream_tiles

PLAIN, MACENKO = {"method": "none"}, {"method": "macenko", "target": "default"}


def grid(slide, side):
    """All corners of a gapless grid, row by row: int64 [n, 2]."""
    y, x = np.mgrid[: slide.height - side + 1 : side, : slide.width - side + 1 : side]
    return np.stack([x.ravel(), y.ravel()], axis=1)


def all_tiles(slide, path, coords, size, mpp, readers, stains=None, options=PLAIN):
    return np.concatenate(list(stream_tiles(slide, path, coords, size, mpp, stains, options, readers)))


@pytest.fixture(scope="module")
def two_readers():
    with Readers(2) as readers:
        yield readers


@pytest.fixture(scope="module")
def one_reader():
    with Readers(1) as readers:
        yield readers


@pytest.fixture(params=["none", "one", "two"])
def readers(request):
    return (
        Readers()
        if request.param == "none"
        else request.getfixturevalue(f"{request.param}_reader{'s' * (request.param == 'two')}")
    )


def test_tiles_are_those_that_are_read_one_by_one(write_slide, readers):
    path = write_slide()
    with open_slide(path) as slide:
        coords = grid(slide, 64)
        assert len(coords) > BAND_TILES  # more than one band
        tiles = all_tiles(slide, path, coords, 64, 0.5, readers)
        single = np.stack([slide.read(x, y, 64, 0.5) for x, y in coords])
    np.testing.assert_array_equal(tiles, single)


def test_gaps_in_the_grid_half_the_resolution_and_stains(write_slide, readers):
    path, stains = write_slide(reductions=()), load_target("default", "reinhard")
    stains = type(stains)("reinhard", stains.matrix * 1.1, stains.p99, 1)
    with open_slide(path) as slide:
        coords = grid(slide, 64)[np.random.default_rng(0).random(256) < 0.3]
        tiles = all_tiles(slide, path, coords, 32, 1.0, readers, stains, MACENKO)
        expected = StainMap(stains, load_target("default", "reinhard"))(slide.read(*coords[5], 32, 1.0))
    np.testing.assert_array_equal(tiles[5], expected)


class Backwards:
    """A slide that hands its tiles out in the wrong order, by twos."""

    def tiles(self, coords, size_px, mpp):
        for last in range(len(coords), 0, -2):
            places = np.arange(max(last - 2, 0), last)
            yield places, np.broadcast_to(places.astype(np.uint8)[:, None, None, None], (len(places), 4, 4, 3))


def test_order_is_restored(tmp_path):
    coords = np.stack([np.arange(7), np.zeros(7, int)], axis=1)
    tiles = all_tiles(Backwards(), tmp_path, coords, 4, 0.5, Readers())
    assert tiles[:, 0, 0, 0].tolist() == list(range(7))


def test_damage_is_named_without_a_traceback_and_the_next_slide_is_read(write_slide, readers):
    path, good = write_slide(reductions=()), write_slide(name="good.svs")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4000] = bytes(4000)
    path.write_bytes(content)
    with open_slide(path) as slide, pytest.raises(SlideError, match="damaged") as caught:
        all_tiles(slide, path, grid(slide, 64), 64, 0.5, readers)
    assert "\n" not in str(caught.value)
    with open_slide(good) as slide:
        assert len(all_tiles(slide, good, grid(slide, 64), 64, 0.5, readers)) == 256


def read_or_die(number, dies_at, flag):
    """The number; at `dies_at` the process dies, as if it was killed, unless one did before."""
    if number == dies_at and not flag.exists():
        flag.touch()
        os._exit(1)
    return number


def test_a_process_that_dies_costs_nothing(tmp_path):
    calls = [(number, 7, tmp_path / "died") for number in range(12)]
    with Readers(1) as readers:
        assert list(readers.map(read_or_die, calls)) == list(range(12))
        assert (tmp_path / "died").exists()


def test_processes_that_die_again_fail_the_job_and_not_the_slide(write_slide, monkeypatch):
    """Who killed them is not known; the slide would be missing for good."""
    path = write_slide()
    with open_slide(path) as slide, Readers(1) as readers:
        with monkeypatch.context() as patch:
            patch.setattr(stream, "_read_band", os._exit)
            patch.setattr(stream, "_cut", lambda _: [0])
            patch.setattr(Readers, "map", lambda self, exit, _, map=Readers.map: map(self, exit, [(1,)]))
            with pytest.raises(RuntimeError, match=r"S1\.svs: the processes that read it died twice") as caught:
                all_tiles(slide, path, grid(slide, 64), 64, 0.5, readers)
        assert not isinstance(caught.value, SlideError)
        assert len(all_tiles(slide, path, grid(slide, 64), 64, 0.5, readers)) == 256
