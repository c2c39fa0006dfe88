"""Every slide ends as features or with a reason, whatever is wrong with it, and none takes much memory."""

import contextlib
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from bad_slides import make_bad_slides, write_repeated
from conftest import stained_image

from histofuse.slides.features import encode_slides
from histofuse.slides.reader import SlideError, open_slide

LIBRARY = Path(__file__).parents[3] / "workflow/scripts"
LIMIT_MB = 2000
READ = """
import sys
from pathlib import Path
import numpy as np
from histofuse.slides.reader import open_slide

path, mpp = sys.argv[1], float(sys.argv[2])
with open_slide(path, 0.25) as slide:
    seen = sum(len(band) for band in slide.bands(mpp, 64))
    corners = np.arange(0, slide.width - 448, 448)
    coords = np.array([(x, y) for y in (0, 448, slide.height - 448) for x in corners])
    seen += sum(len(tiles) for _, tiles in slide.tiles(coords, 224, 0.5))
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(seen, int(status["VmHWM"].split()[0]) / 1e3)
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_bad_slides(tmp_path_factory.mktemp("bad"), stained_image)


def override(name):
    return 0.5 if name.startswith("override") else None


def test_reading_gives_pixels_or_a_reason(corpus):
    for name, bad in corpus.items():
        reason = ""
        try:
            with open_slide(bad.path, override(name)) as slide:
                thumbnail = slide.thumbnail(8.0)
                assert thumbnail.shape == (-(-slide.height // 16), -(-slide.width // 16), 3), name
                coords = np.array([(x, y) for y in range(0, slide.height, 100) for x in range(0, slide.width, 100)])
                assert sum(len(tiles) for _, tiles in slide.tiles(coords, 50, 1.0)) == len(coords), name
        except SlideError as error:
            reason = str(error)
        assert re.search(bad.reason or "^$", reason) or not reason, f"{name}: {reason}"


def test_colours_are_right_where_slides_can_be_used(corpus):
    expected = stained_image(768)[400:500, 300:400].mean(axis=(0, 1))
    for name, bad in corpus.items():
        if bad.reason is None:
            with open_slide(bad.path, override(name)) as slide:
                assert np.abs(slide.read(300, 400, 100, 0.5).mean(axis=(0, 1)) - expected).max() < 3, name


def test_every_slide_becomes_features_or_a_named_exclusion(corpus, settings, tmp_path):
    def encode_all(batches):
        return np.concatenate([tiles.mean(axis=(1, 2), dtype=np.float32) for tiles in batches]), 1.0

    encoder = SimpleNamespace(encode_all=encode_all, name="means", digest="0" * 64)
    paths = [bad.path for bad in corpus.values()]
    receipt = pd.DataFrame({"path": paths, "filename": [p.name for p in paths], "case_id": "C"})
    overrides = {name: 0.5 for name in corpus if override(name)}
    rows = encode_slides(receipt, settings | {"tile_px": 64, "mpp_overrides": overrides}, encoder, tmp_path)
    assert rows["slide_id"].tolist() == list(corpus)
    for row, (name, bad) in zip(rows.itertuples(), corpus.items(), strict=True):
        if row.status == "used":
            assert bad.reason is None or bad.either, name
            assert (tmp_path / f"{name}.h5").exists()
        else:
            assert bad.reason is not None, f"{name}: {row.reason}"
            assert re.search(bad.reason, row.reason), f"{name}: {row.reason}"
            assert not (tmp_path / f"{name}.h5").exists()


def test_the_real_slide_cut_anywhere(real_slide, tmp_path):
    content = real_slide.read_bytes()
    with open_slide(real_slide) as slide:
        expected = slide.thumbnail(8.0)
    usable = []
    for cut in range(20):
        path = tmp_path / f"{cut}.svs"
        path.write_bytes(content[: len(content) * cut // 20])
        with contextlib.suppress(SlideError), open_slide(path) as slide:
            np.testing.assert_array_equal(slide.thumbnail(8.0), expected)
            usable.append(cut)
    # The scan and its directory are the first two thirds of the file; label and overview, behind it, are not needed.
    assert set(usable) <= set(range(13, 20))


def memory_of_reading(path, mpp):
    """Peak memory in MB of a process that reads the whole slide at `mpp`, and three rows of tiles."""
    environment = {"PYTHONPATH": str(LIBRARY), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path), str(mpp)], capture_output=True, text=True, check=True, env=environment
    )
    seen, memory = done.stdout.split()
    assert int(float(seen)) > 0
    return float(memory)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is asked of Linux")
def test_memory_stays_small_for_a_very_wide_slide(tmp_path):
    # As wide as slides get (100,000 px); its height is what the test has time for.
    path = tmp_path / "wide.tif"
    write_repeated(path, rows=2, columns=196)
    assert memory_of_reading(path, 4.0) < LIMIT_MB
