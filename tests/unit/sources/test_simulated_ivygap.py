"""The simulated IvyGAP study: the public layouts, what the project's readers make of them, and the signal in them."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from histofuse.cohort.ivygap import cases_from_ivygap
from histofuse.genomics.genes import gene_names
from histofuse.genomics.ivygap import by_case, read_ivygap_zip
from histofuse.io import InputError
from histofuse.sources.fetch import problem_with
from histofuse.sources.ivygap import manifest as ivygap_manifest
from histofuse.sources.manifest import read_manifest
from histofuse.sources.simulated import Settings, best_reachable, simulate
from histofuse.sources.simulated.cohort import draw_cases
from histofuse.sources.simulated.genes import gene_catalogue
from histofuse.sources.simulated.ivygap import MARKERS, annotation, draw_tumours, fpkm, samples, survival_days

SHARED = Path(__file__).parents[4] / "shared"
SETTINGS = {"study": "ivygap", "cases": 40, "seed": 5, "genes": 600, "missing": 0.1}
API = "glioblastoma.alleninstitute.org/api/v2"


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("simulated") / "study"
    simulate(SETTINGS, directory)
    return directory


@pytest.fixture(scope="module")
def archive(study) -> Path:
    return study / API / "well_known_file_download/305873915"


def portal(study: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(study / API / "gbm" / f"{name}.csv", dtype=str, keep_default_na=False)


def real(name: str) -> pd.DataFrame:
    found = sorted(SHARED.glob(f"mirror/**/{name}"))
    if not found:
        pytest.skip(f"the real example {name} is not in ../shared")
    return pd.read_csv(found[0], dtype=str, keep_default_na=False)


def test_manifest_lists_the_four_files(study):
    manifest = read_manifest(study / "manifest.tsv", batched=False)
    assert list(manifest["kind"]) == ["ivygap_expression", "ivygap_tumors", "ivygap_samples", "ivygap_sub_blocks"]
    for row in manifest.itertuples():
        data = (study / row.url.removeprefix("https://")).read_bytes()
        assert (str(len(data)), hashlib.md5(data).hexdigest()) == (row.size, row.md5)


def test_the_same_settings_give_the_same_bytes_and_a_tumour_is_its_own(study, tmp_path):
    simulate(SETTINGS, tmp_path / "again")
    for path in study.rglob("*"):
        if path.is_file():
            assert (tmp_path / "again" / path.relative_to(study)).read_bytes() == path.read_bytes()
    few = draw_tumours(Settings.parse(SETTINGS | {"cases": 3}))
    many = draw_tumours(Settings.parse(SETTINGS))
    assert few == many[:3]
    np.testing.assert_array_equal(
        fpkm(few[2], Settings.parse(SETTINGS | {"cases": 3})), fpkm(many[2], Settings.parse(SETTINGS))
    )


def test_one_seed_gives_the_two_studies_different_patients():
    both = [draw_cases(Settings(cases=200, seed=5)), draw_tumours(Settings(cases=200, seed=5))]
    assert not {case.tumour for case in both[0]} & {case.tumour for case in both[1]}


def test_all_are_glioblastomas_and_few_lack_survival(study):
    truth = pd.read_parquet(study / "truth.parquet")
    assert set(truth["idh"]) == {"wildtype"}
    assert set(truth["grade"]) == {4}
    assert set(truth["diagnosis"]) == {"glioblastoma"}
    many = draw_tumours(Settings(cases=1000, seed=1))
    assert 0.1 < np.mean([survival_days(tumour) is None for tumour in many]) < 0.3
    assert 0.5 < np.mean([tumour.tumour for tumour in many]) < 1.3  # wild-types are the upper part


def test_reachable_is_that_of_the_tumours_with_survival(study):
    truth = pd.read_parquet(study / "truth.parquet")
    details = portal(study, "tumor_details")
    followed = list(details.loc[details["survival_days"] != "", "tumor_name"])
    assert truth.set_index("case_id").loc[followed, "event"].eq(1).all()
    assert json.loads((study / "reachable.json").read_text()) == best_reachable(truth, followed)


def test_sub_blocks_have_the_real_columns(study):
    ours, theirs = portal(study, "sub_block_details"), real("sub_block_details.csv")
    assert list(ours) == list(theirs)
    assert set(ours["study_name"]) <= set(theirs["study_name"])
    assert set(ours["surgery"]) <= set(theirs["surgery"])
    assert set(ours["extent_of_resection"]) <= set(theirs["extent_of_resection"])
    assert ours["sub_block_name"].str.fullmatch(r"W\d+-1-1-[A-D]\.\d\.\d\d").all()
    assert ours["age_in_years"].str.fullmatch(r"\d+ yrs").all()
    assert ours["sub_block_id"].is_unique
    areas = ours.filter(like="normalized_area_").apply(pd.to_numeric).sum(axis=1)
    assert areas.between(0.98, 1.001).all()
    columns = list(theirs.columns[:10])  # tumor_details.csv has the tumour's columns of this table
    assert list(portal(study, "tumor_details")) == columns


def test_structures_are_named_and_coloured_as_the_real_ones(archive):
    theirs = real("new_file.csv")
    with zipfile.ZipFile(archive) as file:
        ours = pd.read_csv(file.open("columns-samples.csv"), dtype=str)
    for table in (ours, theirs):
        table["structure"] = table["structure_abbreviation"].str.split("-").str[0]
        table["place"] = table["structure_name"].str.split(" sampled").str[0]
    known = theirs.drop_duplicates(["structure", "place", "structure_color"])
    known = known[["structure", "place", "structure_color"]].apply(tuple, axis=1)
    assert set(ours[["structure", "place", "structure_color"]].apply(tuple, axis=1)) <= set(known)
    assert set(MARKERS) <= set(theirs["structure_name"].str.extract(r"gene (\w+)$")[0])


def test_the_archive_has_a_row_per_gene_and_a_column_per_sample(archive):
    with zipfile.ZipFile(archive) as file:
        assert sorted(file.namelist()) == ["README.txt", "columns-samples.csv", "fpkm_table.csv", "rows-genes.csv"]
        matrix, genes, taken = (
            pd.read_csv(io.BytesIO(file.read(name)))
            for name in ("fpkm_table.csv", "rows-genes.csv", "columns-samples.csv")
        )
    assert list(matrix.iloc[:, 0]) == list(genes["gene_id"])
    assert list(matrix.columns[1:]) == list(taken["rna_well_id"].astype(str))
    assert list(genes) == ["gene_id", "chromosome", "gene_entrez_id", "gene_symbol", "gene_name"]
    assert len(taken.columns) == 12
    assert (matrix.iloc[:, 1:].to_numpy() >= 0).all()


def test_genes_have_another_order_older_names_and_gaps():
    table = annotation(1793)
    theirs = list(gene_catalogue(1793)["gene_name"])
    names = gene_names()
    canonical = names.canonical(table["gene_symbol"])[0]
    by_id = names.canonical(table["gene_symbol"], table["gene_entrez_id"].astype(str))[0]
    known = table["row"].to_numpy() >= 0
    # every gene of the catalogue is found again, by its name alone and by its NCBI id
    wanted = names.canonical([theirs[row] for row in table["row"][known]])[0]
    assert [name for name, yes in zip(by_id, known) if yes] == wanted
    own = {"XIST"}  # not protein-coding: known by no list
    assert [a for a, b in zip(np.array(canonical)[known], wanted) if a != b and b not in own] == []
    assert not any(np.array(by_id)[~known])
    renamed = set(table["gene_symbol"][known]) - set(theirs)
    assert {"MLL2", "IL8", "H3F3A"} & renamed
    assert len(renamed) > 30
    assert 0.03 < 1 - known.sum() / len(set(theirs)) < 0.12
    order = [row for row in table["row"] if row >= 0]
    assert order != sorted(order)
    assert table["gene_symbol"].is_unique


def test_samples_of_a_tumour_without_rna_are_absent(study, archive):
    settings = Settings.parse(SETTINGS)
    tumours = draw_tumours(settings)
    without = {tumour.case_id for tumour in tumours if not tumour.has["expression"]}
    assert 1 <= len(without) <= 10
    details = portal(study, "rna_seq_samples_details")
    assert set(details["tumor_name"]) == {tumour.case_id for tumour in tumours} - without
    assert set(portal(study, "tumor_details")["tumor_name"]) >= without
    assert all(samples(tumour, settings) == [] for tumour in tumours if tumour.case_id in without)
    numbers = details.groupby("tumor_name").size()
    assert numbers.between(2, 10).all()
    assert details.groupby("donor_id")["tumor_id"].nunique().eq(1).all()
    assert set(details["sub_block_id"]) <= set(portal(study, "sub_block_details")["sub_block_id"])


def test_the_readers_take_it_and_find_the_factors(study, archive):
    truth = pd.read_parquet(study / "truth.parquet").set_index("case_id")
    cases = by_case(read_ivygap_zip(archive))
    factor = gene_catalogue(600).drop_duplicates("gene_name").set_index("gene_name")["factor"]
    table = pd.DataFrame(cases.layers["log_tpm"], cases.obs_names, cases.var_names)
    scores = {}
    for name, low in (("tumour", 0.55), ("microenvironment", 0.1)):
        group = table[[gene for gene in table if factor.get(gene) == name]]
        scores[name] = pd.Series(np.linalg.svd(group - group.mean(), full_matrices=False)[0][:, 0], index=table.index)
        assert abs(scores[name].corr(truth[f"genomics_{name}"].loc[table.index])) > low
    details = portal(study, "tumor_details")
    known, set_aside = cases_from_ivygap(details, set(cases.obs_names), "tumor_details.csv")
    assert len(known) + len(set_aside) == SETTINGS["cases"]


def test_structures_mix_the_factors_differently():
    settings = Settings(study="ivygap", cases=120, seed=3, genes=230, missing=0)
    genes = annotation(230)
    factor = gene_catalogue(230)["factor"].to_numpy()
    catalogue = np.array(["" if row < 0 else factor[row] for row in genes["row"]])
    names = gene_catalogue(230)["gene_name"].to_numpy()
    brain = np.array([row >= 0 and names[row] in ("SNAP25", "MBP", "NEFL", "SYT1") for row in genes["row"]])
    seen: dict[str, list] = {}
    for tumour in draw_tumours(settings):
        values = np.log2(1 + fpkm(tumour, settings))
        for sample, row in zip(samples(tumour, settings), values, strict=True):
            mean = [row[catalogue == name].mean() for name in ("tumour", "microenvironment")]
            seen.setdefault(sample.structure, []).append([*mean, row[brain].mean()])
    means = {structure: np.mean(rows, axis=0) for structure, rows in seen.items()}
    assert means["LE"][0] < means["IT"][0] < means["CT"][0]
    assert means["CTmvp"][1] > means["CT"][1] > means["LE"][1]
    assert means["LE"][2] > means["IT"][2] > means["CT"][2]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"study": "cgga"}, r"simulated\.study: 'cgga' is not one of tcga, cptac, ivygap"),
        ({"study": 3}, r"simulated\.study"),
        ({"study": "ivygap", "broken_slides": 2}, r"simulated\.broken_slides: images of a simulated IvyGAP are whole"),
        ({"study": "ivygap", "slide_pixels": 500}, r"simulated\.slide_pixels: 500 must be at least 512"),
        ({"slides_per_case": 0}, r"simulated\.slides_per_case: 0 must be at least 1"),
    ],
)
def test_bad_settings(values, message):
    with pytest.raises(InputError, match=message):
        Settings.parse(values)


IMAGES = {"study": "ivygap", "cases": 6, "seed": 5, "genes": 230, "slide_pixels": 600, "slides_per_case": 4}


@pytest.fixture(scope="module")
def imaged(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("images") / "study"
    simulate(IMAGES, directory)
    return directory


def test_images_are_plain_jpegs_whose_resolution_only_the_manifest_knows(imaged):
    slides = read_manifest(imaged / "manifest.tsv", batched=False).query("kind == 'slide'")
    assert set(slides["mpp"]) == {"0.499"}
    assert slides["case_id"].nunique() == IMAGES["cases"]
    assert slides.groupby("case_id").size().between(1, 4).all()
    assert (slides["filename"].str.split("_").str[0].str.rsplit("-", n=1).str[0] == slides["case_id"]).all()
    for row in slides.itertuples():
        path = imaged / row.url.removeprefix("https://")
        assert problem_with(path, row._asdict()) is None
        with Image.open(path) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB")
            assert 540 <= image.width <= 780
            assert "dpi" not in image.info
    assert slides["size"].is_unique


def test_the_real_road_finds_the_images_in_the_simulated_list(imaged):
    wanted = ["file_id", "case_id", "kind", "filename", "url", "mpp"]
    listed = read_manifest(imaged / "manifest.tsv", batched=False)
    ours = listed.query("kind == 'slide'")[wanted]
    asked = ivygap_manifest({"slides": True, "slides_per_sub_block": 9}, str(imaged)).query("kind == 'slide'")[wanted]
    pd.testing.assert_frame_equal(ours.reset_index(drop=True), asked.reset_index(drop=True))
    cases, _ = cases_from_ivygap(portal(imaged, "tumor_details"), set(), "t", listed)
    drawn = {tumour.case_id: sorted(tumour.slides) for tumour in draw_tumours(Settings.parse(IMAGES))}
    assert cases.set_index("case_id")["slides"].to_dict() == drawn
    names = set(portal(imaged, "sub_block_details")["sub_block_name"])
    assert {slide.split("_")[0] for slides in drawn.values() for slide in slides} <= names


def test_images_change_nothing_else_and_depend_on_the_tumour_alone(imaged, tmp_path):
    simulate({key: value for key, value in IMAGES.items() if not key.startswith("slide")}, tmp_path / "plain")
    assert not (tmp_path / "plain/api.brain-map.org").exists()
    plain = [path for path in (tmp_path / "plain" / API).rglob("*") if path.is_file()]
    for path in plain:
        assert path.read_bytes() == (imaged / path.relative_to(tmp_path / "plain")).read_bytes()
    simulate(IMAGES | {"cases": 2}, tmp_path / "few")
    few = list((tmp_path / "few/api.brain-map.org/api/v2/image_download").iterdir())
    assert len(few) >= 2
    for path in few:
        assert path.read_bytes() == (imaged / path.relative_to(tmp_path / "few")).read_bytes()


def test_no_broken_slides_may_be_asked_for():
    assert Settings.parse({"study": "ivygap", "broken_slides": 0}).study == "ivygap"
