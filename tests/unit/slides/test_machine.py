"""A failing disk and too little memory fail the job; what a damaged file makes a library say sets the slide aside."""

import errno
import os

import h5py
import numpy as np
import openslide
import pytest
import pyvips
import tifffile
from PIL import Image

from histofuse.io import InputError
from histofuse.slides import pack, reader_image, reader_openslide, reader_tiff
from histofuse.slides.features import encode_slide
from histofuse.slides.machine import of_the_machine
from histofuse.slides.reader import SlideError, open_slide

FAILURES = [OSError(errno.EIO, "Input/output error"), OSError(errno.ESTALE, "Stale file handle"), MemoryError()]
DAMAGE = [OSError(errno.EINVAL, "Invalid argument"), ValueError("bad marker"), RuntimeError("not a JPEG")]


def raising(error):
    def fail(*_, **__):
        raise error

    return fail


def test_which_errors_are_the_machines():
    assert all(map(of_the_machine, FAILURES))
    assert of_the_machine(OSError(errno.ENOSPC, "No space left on device"))
    assert of_the_machine(openslide.OpenSlideError("I/O error reading file a.ndpi"))
    assert of_the_machine(pyvips.Error("unable to call", "file: read error\nunix error: Input/output error"))
    assert of_the_machine(OSError("Can't read data (file read failed: error message = 'Input/output error')"))
    assert not any(map(of_the_machine, DAMAGE))
    assert not of_the_machine(OSError("truncated file"))


@pytest.mark.parametrize("error", FAILURES)
def test_a_failing_disk_is_not_the_slides_fault(write_slide, settings, tmp_path, monkeypatch, error):
    path = write_slide()
    monkeypatch.setattr(os, "pread", raising(error))
    with pytest.raises(type(error)) as caught:
        encode_slide(path, "S1", settings, None, tmp_path)
    assert not isinstance(caught.value, SlideError)


@pytest.mark.parametrize("error", DAMAGE)
def test_what_else_a_library_says_sets_the_slide_aside(write_slide, settings, tmp_path, monkeypatch, error):
    path = write_slide()
    monkeypatch.setattr(os, "pread", raising(error))
    row = encode_slide(path, "S1", settings, None, tmp_path)
    assert row["status"] == "excluded"
    assert row["reason"].startswith("damaged: cannot be read at x=0, y=0")


@pytest.mark.parametrize("error", FAILURES)
def test_a_directory_that_cannot_be_read_is_not_damaged(write_slide, monkeypatch, error):
    path = write_slide()
    monkeypatch.setattr(reader_tiff, "_pyramid", raising(error))
    with pytest.raises(type(error)):
        open_slide(path)


def test_openslide_tells_in_words(write_slide, monkeypatch):
    path, error = write_slide(), openslide.OpenSlideError("I/O error reading file S1.svs")
    slide = reader_openslide.OpenSlideSlide(path, None)
    monkeypatch.setattr(openslide.OpenSlide, "read_region", raising(error))
    with slide, pytest.raises(openslide.OpenSlideError):
        slide.thumbnail(8.0)
    monkeypatch.setattr(openslide, "OpenSlide", raising(error))
    with pytest.raises(openslide.OpenSlideError):
        reader_openslide.OpenSlideSlide(path, None)


def test_libvips_tells_in_words(tmp_path, monkeypatch):
    path, error = tmp_path / "a.png", pyvips.Error("unable to call", "read error\nunix error: Input/output error")
    Image.fromarray(np.full((64, 64, 3), 200, np.uint8)).save(path)
    slide = reader_image.ImageSlide(path, 0.5, "png")
    monkeypatch.setattr(pyvips.Image, "new_from_file", raising(error))
    with slide, pytest.raises(pyvips.Error):
        slide.thumbnail(0.5)
    with pytest.raises(pyvips.Error):
        reader_image.ImageSlide(path, 0.5, "png")


@pytest.mark.parametrize("suffix", [".h5", ".pt"])
def test_features_on_a_failing_disk_are_not_unreadable(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"S1{suffix}"
    path.write_bytes(b"\0" * 100)
    with pytest.raises(InputError, match="cannot be read"):
        pack.read_features(path)
    monkeypatch.setattr(h5py, "File", raising(FAILURES[0]))
    monkeypatch.setattr("torch.load", raising(FAILURES[0]))
    with pytest.raises(OSError, match="Input/output error"):
        pack.read_features(path)


def test_a_directory_that_lies_about_sizes_asks_for_no_memory(write_slide, monkeypatch):
    path = write_slide(reductions=())
    with tifffile.TiffFile(path, mode="r+b") as file:
        counts = file.pages[0].tags["TileByteCounts"]
        counts.overwrite([2**32 - 1] * len(counts.value))
    monkeypatch.setattr(os, "pread", raising(AssertionError("memory was asked for")))
    with open_slide(path) as slide, pytest.raises(SlideError, match=r"the file ends \d+ bytes too early"):
        slide.thumbnail(8.0)
