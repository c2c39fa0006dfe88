"""Reading tiles on one core, against a loop over OpenSlide and against nothing but decoding the JPEG tiles they need.

Medians of interleaved rounds of processor time, which other work on the machine disturbs least.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import openslide
import pytest
import pyvips
import tifffile
from large_slide import MPP, TILE_PX, write_large_slide

from histofuse.slides.reader import open_slide

SIZE = 224
ROUNDS = 5
LIMIT_MB = 2000
LIBRARY = Path(__file__).parents[2] / "workflow/scripts"
READ_ALL = """
import sys, time
from pathlib import Path
import numpy as np
from histofuse.slides.reader import open_slide

start = time.process_time()
with open_slide(sys.argv[1], 0.5) as slide:
    for _ in slide.bands(4.0, 64):
        pass
    print("bands", time.process_time() - start)
    step = 448
    coords = np.array([(x, y) for y in range(0, slide.height, step) for x in range(0, slide.width, step)])
    start = time.process_time()
    for _ in slide.tiles(coords, 224, 0.5):
        pass
    print("tiles", time.process_time() - start)
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print("memory", int(status["VmHWM"].split()[0]) / 1e3)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return write_large_slide(tmp_path_factory.mktemp("large") / "large.svs")


def rates(n, *functions):
    """Tiles per second of each, the median of interleaved rounds."""
    times = {function: [] for function in functions}
    for _ in range(ROUNDS):
        for function in functions:
            start = time.process_time()
            function()
            times[function].append(time.process_time() - start)
    return [n / statistics.median(times[function]) for function in functions]


@pytest.mark.parametrize("half", [False, True], ids=["native", "half"])
def test_tiles_against_openslide_and_bare_decoding(large, half):
    side, mpp = (2 * SIZE, 2 * MPP) if half else (SIZE, MPP)
    coords = large.coords(side)
    with tifffile.TiffFile(large.path) as file:
        page = file.pages[0]
        tables, offsets, counts = page.jpegtables, page.dataoffsets, page.databytecounts
    columns = large.tissue.shape[1]
    needed = {
        row * columns + column
        for x, y in coords.tolist()
        for row in range(y // TILE_PX, (y + side - 1) // TILE_PX + 1)
        for column in range(x // TILE_PX, (x + side - 1) // TILE_PX + 1)
    }
    content = large.path.read_bytes()
    compressed = [content[offsets[i] : offsets[i] + counts[i]] for i in sorted(needed)]

    def loop():
        with openslide.OpenSlide(large.path) as slide:
            for x, y in coords.tolist():
                region = slide.read_region((x, y), 0, (side, side)).convert("RGB")
                yield np.asarray(region.reduce(2) if half else region)

    def by_openslide():
        for _ in loop():
            pass

    def ours():
        with open_slide(large.path) as slide:
            for _ in slide.tiles(coords, SIZE, mpp):
                pass

    def by_vips():
        image = pyvips.Image.new_from_file(str(large.path), access="random")
        region = pyvips.Region.new(image)
        for x, y in coords.tolist():
            pixels = np.frombuffer(region.fetch(x, y, side, side), np.uint8).reshape(side, side, -1)
            if half:
                cv2.resize(pixels, (SIZE, SIZE), interpolation=cv2.INTER_AREA)

    def bare():
        for data in compressed:
            imagecodecs.jpeg8_decode(data, tables=tables, colorspace="YCBCR", outcolorspace="RGB")

    reference = np.stack(list(loop()))
    with open_slide(large.path) as slide:
        for rows, tiles in slide.tiles(coords, SIZE, mpp):
            np.testing.assert_array_equal(tiles, reference[rows])
    del reference
    rate, loops, vips, limit = rates(len(coords), ours, by_openslide, by_vips, bare)
    print(
        f"\n{len(coords)} tiles, {'half' if half else 'native'} resolution: {rate:.0f} tiles/s; OpenSlide {loops:.0f} "
        f"({rate / loops:.1f} ×), pyvips random {vips:.0f} ({rate / vips:.1f} ×), "
        f"bare decoding {limit:.0f} ({rate / limit:.0%})"
    )
    assert rate >= 3 * loops
    assert rate >= 0.6 * limit


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is asked of Linux")
@pytest.mark.parametrize("name", ["large.svs", "plain.jpg"])
def test_memory_and_time_of_a_gigapixel(tmp_path, name):
    """A whole slide of 1.07 gigapixels as tiles, and a plain JPEG of 971 megapixels: no reading of it as a whole."""
    slide = write_large_slide(tmp_path / "large.svs", rows=128, columns=128)
    path = tmp_path / name
    if name == "plain.jpg":
        image = pyvips.Image.new_from_file(str(slide.path), access="sequential")
        image.crop(0, 0, 32_768, 29_632).jpegsave(str(path), Q=85)
    environment = {"PYTHONPATH": str(LIBRARY), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(path)], capture_output=True, text=True, check=True, env=environment
    )
    numbers = dict(line.split() for line in done.stdout.splitlines())
    print(f"\n{name}: bands {float(numbers['bands']):.1f} s, all tiles {float(numbers['tiles']):.1f} s of one core, "
          f"at most {float(numbers['memory']):.0f} MB")  # fmt: skip
    assert float(numbers["memory"]) < LIMIT_MB
