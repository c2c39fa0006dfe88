"""Regions: where they are chosen or given, the same bytes every time, packed, and the features of their crops."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from histofuse.io import InputError, read_table, sha256, write_table
from histofuse.slides.crops import crop_corners, cut_crops, encode_regions
from histofuse.slides.pack import gather_slides, pack
from histofuse.slides.quality import Survey
from histofuse.slides.reader import Slide, SlideError
from histofuse.slides.region_table import read_regions
from histofuse.slides.regions import (
    REGION_COLUMNS,
    SLIDE_COLUMNS,
    choose_regions,
    cut_regions,
    pack_regions,
    previews,
)
from histofuse.slides.sheet import GREY, contact_sheet

PNGS = (
    Path(__file__).parents[4]
    / "shared/mirror/raw.githubusercontent.com/mahmoodlab/PathomicFusion/44b5513cb90c31337276bba92abe515e21c7f6ca"
    / "CellGraph/example_data/imgs"
)
SVS = "TCGA-02-0001-01Z-00-DX1.83fce43e-42ac-4dcd-b156-2908e75f2e47.svs"
STAIN = {"method": "none", "target": "default", "pixels": 20_000, "seed": 0, "fallback": "none"}


@pytest.fixture
def cutting():
    """Settings of regions so small that a slide of 1024 px holds several."""
    return {
        "mpp": 0.5,
        "side_px": 256,
        "per_slide": 3,
        "crop_px": 128,
        "stride_px": 64,
        "min_tissue": 0.9,
        "quality": {"max_blurred": 1.0},
        "stain": STAIN,
        "mpp_overrides": {},
    }


def receipt_of(*paths, **columns):
    frame = pd.DataFrame({"path": [str(p) for p in paths], "filename": [Path(p).name for p in paths]})
    return frame.assign(case_id=[f"C-{Path(p).stem}" for p in paths], **columns)


def cut(receipt, cutting, folder):
    """`cut_regions` with its tables on disk, as the rule leaves them."""
    slides, regions = cut_regions(receipt, cutting, folder)
    write_table(slides, folder / "slides.parquet")
    write_table(regions, folder / "regions.parquet")
    return slides, regions


def pixels_of(folder, slide_id, side):
    return np.fromfile(folder / f"{slide_id}.u8", np.uint8).reshape(-1, side, side, 3)


# Where crops lie


def test_the_nine_crops_of_the_paper():
    expected = [(x, y) for y in (0, 256, 512) for x in (0, 256, 512)]
    assert crop_corners(1024, 512, 256).tolist() == [list(corner) for corner in expected]


def test_other_crops():
    assert crop_corners(512, 512, 256).tolist() == [[0, 0]]
    assert len(crop_corners(1024, 224, 200)) == 25
    for side, crop, stride in ((512, 1024, 256), (512, 256, 0), (512, 0, 1)):
        with pytest.raises(InputError, match="cannot be cut"):
            crop_corners(side, crop, stride)


def test_crops_are_antialiased():
    region = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    corners = crop_corners(256, 128, 64)
    crops = cut_crops(region, corners, 128, 64)
    for crop, (x, y) in zip(crops, corners, strict=True):
        np.testing.assert_array_equal(crop, Image.fromarray(region[y : y + 128, x : x + 128]).reduce(2))
    np.testing.assert_array_equal(cut_crops(region, corners[:1], 128, 128)[0], region[:128, :128])
    assert cut_crops(region, corners[:1], 128, 160).shape == (1, 160, 160, 3)


# Tables of regions


def test_a_table_of_regions(tmp_path):
    (tmp_path / "t.tsv").write_text(f"slide_id\tx\ty\tside\n{SVS}\t10.4\t20.6\t512\nb\t0\t1e3\t256\n")
    expected = {"slide_id": [SVS.removesuffix(".svs"), "b"], "x": [10, 0], "y": [21, 1000], "side": [512, 256]}
    assert read_regions(tmp_path / "t.tsv").to_dict("list") == expected
    (tmp_path / "t.csv").write_text("slide_id,x,y\nb,3,4\n")
    assert read_regions(tmp_path / "t.csv").to_dict("list") == {"slide_id": ["b"], "x": [3], "y": [4], "side": [0]}


def test_the_supplement_of_scnn(tmp_path):
    """A row per slide, as many pairs as regions; Excel puts a mark before the first column's name."""
    text = f'\ufeffSlide,"(X,Y) region",Sizes\n{SVS},"(26560.1176, 22411.598)","(1024, 1024)"\n'
    text += 'B.svs,"(1.2, 3.7), (40, 50)","(1024, 1024), (1024, 1024)"\n'
    (tmp_path / "s2.csv").write_text(text, encoding="utf-8")
    table = read_regions(tmp_path / "s2.csv")
    assert table["slide_id"].tolist() == [SVS.removesuffix(".svs"), "B", "B"]
    assert table[["x", "y"]].values.tolist() == [[26560, 22412], [1, 4], [40, 50]]
    assert (table["side"] == 0).all()


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("t.xls", "", "save the sheet of a workbook as .csv"),
        ("t.csv", "", "cannot be read as a table"),
        ("t.csv", "slide,x,y\na,1,2\n", "column.* slide_id are missing"),
        ("t.csv", "slide_id,x,y\na,1,2\nb,,2\n", "row 2: x is ''; expected pixels"),
        ("t.csv", "slide_id,x,y\na,1,-2\n", "row 1: y is '-2'"),
        ("t.csv", "slide_id,x,y\na,inf,2\n", "row 1: x is 'inf'"),
        ("t.csv", "slide_id,x,y,side\na,1,2,0\n", "row 1: side is '0'; expected pixels, at least 1"),
        ("t.csv", "slide_id,x,y\n,1,2\n", "row 1: the region has no slide_id"),
        ("t.csv", "slide_id,x,y\na,1,2\na,1.2,2\n", "row 2: this region is there twice"),
        ("t.csv", "slide_id,x,y,side\na,1,2,8\na,4,2,9\n", "row 2: the regions of a slide have different sides"),
        ("t.csv", 'Slide,"(X,Y) region"\na,"(1, 2)"\nb,"(1; 2)"\n', "row 2: .* must be pairs"),
        ("t.csv", 'Slide,"(X,Y) region"\na,none\n', "row 1: .* must be pairs"),
        ("t.csv", 'Slide,"(X,Y) region"\na,"(1, 2), (x, 3)"\n', "row 1: x is 'x'"),
    ],
)
def test_wrong_tables(tmp_path, name, text, reason):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=reason):
        read_regions(tmp_path / name)


def test_an_absent_table(tmp_path):
    with pytest.raises(InputError, match="there is no such table"):
        read_regions(tmp_path / "t.csv")


# Where regions are chosen


@dataclass
class Sized:
    """What choosing needs to know of a slide."""

    width: int
    height: int
    mpp: float = 0.5

    def footprint(self, size_px, mpp):
        return round(size_px * mpp / self.mpp)


@pytest.fixture
def view():
    """A slide of 160 × 128 mask pixels, pink all over; a region of 256 px at 0.5 µm/px takes 16."""
    shape = (128, 160)
    image = np.full((*shape, 3), (226, 160, 196), np.uint8)
    off = np.zeros(shape, bool)
    tissue = ~off
    return Survey(
        thumbnail=image,
        tissue=tissue,
        pen=off.copy(),
        fold=off.copy(),
        black=off.copy(),
        sharpness=np.full(shape, 1e6, np.float32),
        mpp=8.0,
    )


SLIDE = Sized(160 * 16, 128 * 16)
BLUE = (92, 58, 140)


def paint(view, x, y, extent=16, colour=BLUE):
    view.thumbnail[y : y + extent, x : x + extent] = colour


def places(regions):
    return regions[["x", "y"]].values.tolist()


def test_the_densest_come_first_and_do_not_overlap(view, cutting):
    paint(view, 96, 64)
    paint(view, 32, 16, 20, (140, 100, 160))
    regions = choose_regions(view, SLIDE, cutting)
    assert places(regions)[:2] == [[96 * 16, 64 * 16], [32 * 16, 16 * 16]]
    assert regions["haematoxylin"].is_monotonic_decreasing
    assert (regions["side"] == 256).all()
    assert (regions["mpp"] == 0.5).all()
    assert (regions["tissue"] == 1).all()
    corners = np.array(places(regions))
    apart = np.abs(corners[:, None] - corners[None]).max(axis=2)
    assert (apart[~np.eye(3, dtype=bool)] >= 256).all()


def test_equal_regions_are_taken_from_the_upper_left(view, cutting):
    assert places(choose_regions(view, SLIDE, cutting)) == [[0, 0], [256, 0], [512, 0]]


def test_the_right_and_lower_rim_are_reached(view, cutting):
    paint(view, 144, 112)
    odd = Sized(160 * 16 - 7, 128 * 16 - 5)
    assert places(choose_regions(view, odd, cutting))[0] == [odd.width - 256, odd.height - 256]


@pytest.mark.parametrize("what", ["pen", "fold", "black", "blurred"])
def test_bad_places_are_avoided(view, cutting, what):
    cutting["quality"] = cutting["quality"] | {f"max_{what}": 0.1}
    paint(view, 96, 64)
    bad = np.s_[64:80, 96:112]
    if what == "blurred":
        view.sharpness[bad] = 0
    else:
        getattr(view, what)[bad] = True
    assert [96 * 16, 64 * 16] not in places(choose_regions(view, SLIDE, cutting))
    if what == "blurred":
        view.sharpness[:] = 0
    else:
        getattr(view, what)[:] = True
    with pytest.raises(SlideError, match=f"is free enough of what is {what}"):
        choose_regions(view, SLIDE, cutting)


def test_slides_without_a_region(view, cutting):
    view.tissue[:, ::4] = False
    with pytest.raises(SlideError, match="no region is at least 90% tissue; the best has 75%"):
        choose_regions(view, SLIDE, cutting)
    with pytest.raises(SlideError, match="smaller than a region: 2560 × 200 px, a region takes 256 px"):
        choose_regions(view, Sized(2560, 200), cutting)


def test_fewer_regions_than_asked_for(view, cutting):
    assert len(choose_regions(view, SLIDE, cutting | {"per_slide": 1000})) == 80
    view.tissue[:, 40:] = False
    regions = choose_regions(view, SLIDE, cutting | {"per_slide": 1000})
    assert 16 <= len(regions) <= 24


def test_an_image_of_a_regions_size_is_the_region(view, cutting):
    view.tissue[:] = False
    assert places(choose_regions(view, Sized(256, 257), cutting)) == [[0, 0]]


# Cutting


def nuclei(side=1024, seed=0):
    """Pink tissue with nuclei all over, denser towards the lower right."""
    rng = np.random.default_rng(seed)
    image = rng.normal((226, 160, 196), 8, (side, side, 3))
    for x, y in rng.beta(2.5, 1, (1500, 2)) * (side - 10):
        image[int(y) : int(y) + 9, int(x) : int(x) + 9] = rng.normal((92, 58, 140), 6, (9, 9, 3))
    return np.clip(image, 0, 255).astype(np.uint8)


def test_regions_of_a_slide(write_slide, cutting, tmp_path):
    path = write_slide(nuclei())
    slides, regions = cut(receipt_of(path), cutting, tmp_path / "out")
    assert slides.columns.tolist() == list(SLIDE_COLUMNS)
    assert regions.columns.tolist() == list(REGION_COLUMNS)
    row = slides.iloc[0]
    assert (row["slide_id"], row["case_id"], row["status"], row["n_regions"]) == ("S1", "C-S1", "used", 3)
    assert row["tissue_fraction"] > 0.95
    assert regions.loc[0, ["x", "y"]].tolist() == [768, 768]  # the densest corner
    pixels = pixels_of(tmp_path / "out", "S1", 256)
    with Image.open(path) as image:
        whole = np.asarray(image.convert("RGB"))
    for region, place in zip(pixels, regions.itertuples(), strict=True):
        np.testing.assert_allclose(region, whole[place.y : place.y + 256, place.x : place.x + 256], atol=3)
    names = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*")}
    pictures = {f"regions/S1/S1_{k}.png" for k in (1, 2, 3)}
    assert names == {"S1.u8", "S1.png", "S1.thumbnail.jpg", "slides.parquet", "regions.parquet"} | pictures


def test_same_bytes_every_time(write_slide, cutting, tmp_path):
    path = write_slide(nuclei())
    cutting["stain"] = STAIN | {"method": "vahadane"}
    for folder in ("one", "two"):
        cut(receipt_of(path), cutting, tmp_path / folder)
    for name in sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.*")):
        assert sha256(tmp_path / "one" / name) == sha256(tmp_path / "two" / name)


def test_stains_are_the_slides_and_not_the_regions(write_slide, cutting, tmp_path):
    """They do not depend on which regions are cut, and change the pixels."""
    path = write_slide(nuclei())
    (tmp_path / "t.csv").write_text("slide_id,x,y\nS1,0,0\n")
    stained = cutting | {"stain": STAIN | {"method": "macenko"}}
    chosen, _ = cut(receipt_of(path), stained, tmp_path / "chosen")
    given, _ = cut(receipt_of(path), stained | {"from": str(tmp_path / "t.csv")}, tmp_path / "given")
    columns = [c for c in SLIDE_COLUMNS if c.startswith(("stain", "haematoxylin", "eosin"))]
    pd.testing.assert_frame_equal(chosen[columns], given[columns])
    assert chosen.loc[0, "stain"] == "macenko"
    cut(receipt_of(path), cutting | {"from": str(tmp_path / "t.csv")}, tmp_path / "plain")
    plain, mapped = (pixels_of(tmp_path / f, "S1", 256).astype(int) for f in ("plain", "given"))
    assert np.abs(plain - mapped).mean() > 2


def test_given_regions(write_slide, cutting, tmp_path):
    """`side` in level-0 pixels decides the resolution; a slide that the table does not name is left out."""
    path, other = write_slide(nuclei()), write_slide(nuclei(seed=1), name="S2.svs")
    (tmp_path / "t.csv").write_text("slide_id,x,y,side\ns1.svs,512,0,512\ns1.svs,100,300,512\n")
    cutting["from"] = str(tmp_path / "t.csv")
    slides, regions = cut(receipt_of(path, other), cutting, tmp_path / "out")
    assert slides["slide_id"].tolist() == ["S1"]
    assert regions[["x", "y", "side", "mpp"]].values.tolist() == [[512, 0, 512, 1.0], [100, 300, 512, 1.0]]
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB").crop((512, 0, 1024, 512)).reduce(2))
    np.testing.assert_allclose(pixels_of(tmp_path / "out", "S1", 256)[0], expected, atol=3)
    empty, none = cut(receipt_of(other), cutting, tmp_path / "empty")
    assert (len(empty), len(none)) == (0, 0)
    assert gather_slides([tmp_path / "out", tmp_path / "empty"], 0.0)["slide_id"].tolist() == ["S1"]


def test_bad_slides_are_set_aside_with_reasons(write_slide, cutting, tmp_path):
    (tmp_path / "page.svs").write_text("<html>no such file</html>")
    write_slide(np.full((1024, 1024, 3), 243, np.uint8), name="glass.svs")
    write_slide(nuclei(), name="good.svs")
    write_slide(nuclei(), name="silent.svs", fields="")
    write_slide(nuclei(200), name="small.svs", reductions=())
    receipt = receipt_of(*(tmp_path / f"{n}.svs" for n in ("page", "glass", "good", "silent", "small")))
    slides, regions = cut(receipt, cutting, tmp_path / "out")
    slides = slides.set_index("slide_id")
    assert slides["status"].to_dict() == dict.fromkeys(slides.index, "excluded") | {"good": "used"}
    for name, reason in {
        "glass": "no tissue found",
        "silent": "no magnification",
        "small": "smaller than a region",
    }.items():
        assert reason in slides.loc[name, "reason"]
    assert len(slides.loc["page", "reason"]) > 10
    assert (slides.loc["glass", "width"], slides.loc["glass", "tissue_fraction"]) == (1024, 0)
    assert set(regions["slide_id"]) == {"good"}
    (tmp_path / "t.csv").write_text("slide_id,x,y\ngood,900,0\n")
    slides, _ = cut(receipt, cutting | {"from": str(tmp_path / "t.csv")}, tmp_path / "given")
    assert "x=900, y=0" in slides.loc[0, "reason"]
    assert "reaches beyond the slide of 1024 × 1024 px" in slides.loc[0, "reason"]


def test_a_slide_that_is_damaged_at_its_second_region_leaves_no_files(write_slide, cutting, tmp_path, monkeypatch):
    path, read, reads = write_slide(nuclei()), Slide.read, iter(range(9))

    def damaged(self, *place):
        if next(reads) == 1:
            raise SlideError("damaged: cannot be read")
        return read(self, *place)

    monkeypatch.setattr(Slide, "read", damaged)
    slides, regions = cut(receipt_of(path), cutting, tmp_path / "out")
    assert slides["reason"].tolist() == ["damaged: cannot be read"]
    assert regions.empty
    assert {p.name for p in (tmp_path / "out").rglob("*.*")} == {"slides.parquet", "regions.parquet"}


def test_resolutions_of_the_receipt_and_overrides(write_slide, cutting, tmp_path):
    path = write_slide(nuclei(), fields="")
    slides, _ = cut(receipt_of(path, mpp=["0.5"]), cutting, tmp_path / "receipt")
    assert slides["mpp"].tolist() == [0.5]
    slides, _ = cut(receipt_of(path, mpp=[""]), cutting | {"mpp_overrides": {"S1": 0.25}}, tmp_path / "override")
    assert slides["mpp"].tolist() == [0.25]


def test_a_receipt_with_a_slide_twice(cutting, tmp_path):
    with pytest.raises(InputError, match="slide S1 more than once"):
        cut_regions(receipt_of("x/S1.svs", "y/S1.svs"), cutting, tmp_path)


def test_a_region_that_is_an_image(cutting, tmp_path):
    """As Pathomic Fusion ships them: the image itself, byte for byte."""
    image = nuclei(256)
    Image.fromarray(image).save(tmp_path / "A_1.png")
    slides, regions = cut(receipt_of(tmp_path / "A_1.png"), cutting | {"mpp_overrides": {"A_1": 0.5}}, tmp_path / "out")
    assert slides.loc[0, ["status", "reason", "n_regions"]].tolist() == ["used", "", 1]
    assert regions[["x", "y", "side"]].values.tolist() == [[0, 0, 256]]
    np.testing.assert_array_equal(pixels_of(tmp_path / "out", "A_1", 256)[0], image)


def test_real_regions(cutting, tmp_path):
    paths = sorted(PNGS.glob("*.png"))
    if not paths:
        pytest.skip(f"Pathomic Fusion's example regions are not at {PNGS}")
    cutting |= {"side_px": 1024, "per_slide": 1, "mpp_overrides": {p.stem: 0.5 for p in paths}}
    slides, regions = cut(receipt_of(*paths), cutting, tmp_path / "out")
    assert slides["reason"].tolist() == [""] * 3
    assert len(regions) == 3
    with Image.open(paths[0]) as image:
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(pixels_of(tmp_path / "out", paths[0].stem, 1024)[0], expected)


# Packing


@pytest.fixture
def batches(write_slide, cutting, tmp_path):
    """Two batches: b, then a and one that is set aside."""
    write_slide(np.full((1024, 1024, 3), 243, np.uint8), name="glass.svs")
    paths = [write_slide(nuclei(seed=k), name=f"{name}.svs") for k, name in enumerate("ba")]
    cut(receipt_of(paths[0]), cutting, tmp_path / "1")
    cut(receipt_of(paths[1], tmp_path / "glass.svs"), cutting, tmp_path / "2")
    return [tmp_path / "1", tmp_path / "2"]


def test_packed_regions(batches, tmp_path):
    for order in (batches, batches[::-1]):
        slides = gather_slides(order, 0.5)
        index = pack_regions(order, slides, 256, tmp_path / "regions.u8")
        assert index.columns.tolist() == ["region", *REGION_COLUMNS, "side_px", "sha256"]
        assert index["slide_id"].tolist() == ["a"] * 3 + ["b"] * 3
        assert index["region"].tolist() == list(range(6))
        packed = np.memmap(tmp_path / "regions.u8", "u1", "r", shape=(6, 256, 256, 3))
        for folder, slide in zip(batches, "ba", strict=True):
            rows = index.index[index["slide_id"] == slide]
            np.testing.assert_array_equal(packed[rows], pixels_of(folder, slide, 256))
        assert index["sha256"].tolist() == [hashlib.sha256(pixels.tobytes()).hexdigest() for pixels in packed]
    sheet = np.asarray(contact_sheet(previews(slides, index)))
    assert sheet.shape[1] == 7 * 208 + 8
    assert ((sheet[30, 20::208] == GREY).all(axis=1)).sum() == 1


def test_regions_that_are_cut_short(batches, tmp_path):
    slides = gather_slides(batches, 0.5)
    whole = (batches[0] / "b.u8").read_bytes()
    (batches[0] / "b.u8").write_bytes(whole[:-1])
    with pytest.raises(InputError, match=r"b\.u8: does not hold the regions"):
        pack_regions(batches, slides, 256, tmp_path / "regions.u8")
    assert not (tmp_path / "regions.u8").exists()


# Features


def test_features_of_crops(batches, cutting, settings, encoder, tmp_path):
    folders = []
    for folder in batches:
        out = tmp_path / f"features-{folder.name}"
        write_table(encode_regions(folder, cutting, settings, encoder, out), out / "slides.parquet")
        folders.append(out)
    slides = gather_slides(folders, 0.5)
    assert slides["n_tiles"].tolist() == [27, 27, 0]
    index = pack(slides, tmp_path / "tiles.f16", tmp_path / "index.parquet", tmp_path / "coords.i32")
    assert index[["slide_id", "n_tiles", "side"]].values.tolist() == [["a", 27, 128], ["b", 27, 128]]
    tiles = np.fromfile(tmp_path / "tiles.f16", "<f2").reshape(54, encoder.dim)
    coords = np.fromfile(tmp_path / "coords.i32", "<i4").reshape(54, 2)
    regions = read_table(batches[0] / "regions.parquet")
    # Slide b: the 6th crop of its second region.
    place = 27 + 9 + 5
    assert coords[place].tolist() == (regions.loc[1, ["x", "y"]] + [128, 64]).tolist()
    crop = pixels_of(batches[0], "b", 256)[1][64:192, 128:256]
    crop = cv2.resize(crop, (160, 160), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_allclose(tiles[place], encoder.encode(crop[None])[0], rtol=5e-3, atol=5e-3)
    with h5py.File(folders[0] / "b.h5") as file:
        attributes = dict(file["coords"].attrs)
        assert file["features"].attrs["encoder_sha256"] == encoder.digest
    assert {k: attributes[k] for k in ("patch_size", "patch_size_level0", "level0_width", "target_mpp")} == {
        "patch_size": 160, "patch_size_level0": 128, "level0_width": 1024, "target_mpp": 0.4,
    }  # fmt: skip
    assert (folders[0] / "b.png").is_file()
    assert (folders[0] / "b.thumbnail.jpg").is_file()


def test_an_encoder_that_gives_no_numbers(batches, cutting, settings, tmp_path):
    class Broken:
        def encode_all(self, batches):
            return np.full((sum(map(len, batches)), 4), np.nan, np.float32), 1.0

    slides = encode_regions(batches[0], cutting, settings, Broken(), tmp_path / "out")
    assert slides.loc[0, ["status", "reason", "n_tiles"]].tolist() == [
        "excluded", "the encoder gave values that are not finite", 0,
    ]  # fmt: skip
