"""Files of the simulated cohort: the public formats column by column, determinism, and the signal they carry."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from histofuse.io import InputError
from histofuse.sources.simulated import Settings, best_reachable, simulate
from histofuse.sources.simulated.alterations import gene_level_copy_number, masked_mutations
from histofuse.sources.simulated.clinical import gdc_cases
from histofuse.sources.simulated.cohort import draw_cases
from histofuse.sources.simulated.expression import star_counts
from histofuse.sources.simulated.genes import gene_catalogue, n_named, on_arm
from histofuse.sources.simulated.write import damaged_slides

SHARED = Path(__file__).parents[4] / "shared"
SETTINGS = {"cases": 8, "seed": 11, "genes": 230, "slide_pixels": 512, "missing": 0.0, "broken_slides": 0}


def real(pattern: str) -> Path:
    found = sorted(SHARED.glob(pattern))
    if not found:
        pytest.skip(f"the real example {pattern} is not in ../shared")
    return found[0]


def content(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("simulated") / "cohort"
    simulate(SETTINGS, directory)
    return directory


@pytest.fixture(scope="module")
def manifest(cohort) -> pd.DataFrame:
    return pd.read_csv(cohort / "manifest.tsv", sep="\t", keep_default_na=False)


def path_of(cohort: Path, row) -> Path:
    return cohort / row.url.removeprefix("https://")


def test_manifest_lists_every_file_with_size_and_md5(cohort, manifest):
    assert list(manifest) == ["file_id", "case_id", "kind", "filename", "url", "size", "md5", "sha256", "mpp"]
    assert manifest["file_id"].is_unique
    assert not manifest.duplicated(["kind", "filename"]).any()
    beside = {"manifest.tsv", "truth.parquet", "reachable.json"}
    on_disk = {path for path in cohort.rglob("*") if path.is_file() and path.name not in beside}
    assert on_disk == {path_of(cohort, row) for row in manifest.itertuples()}
    for row in manifest.itertuples():
        data = path_of(cohort, row).read_bytes()
        assert (len(data), hashlib.md5(data).hexdigest()) == (row.size, row.md5)
    assert manifest["kind"].value_counts().to_dict() == {
        "clinical": 1,
        "molecular": 1,
        "expression": 8,
        "mutations": 8,
        "copy_number": 8,
        "slide": 8,
    }


def test_reachable_is_that_of_the_truth(cohort):
    reachable = json.loads((cohort / "reachable.json").read_text())
    assert reachable == best_reachable(pd.read_parquet(cohort / "truth.parquet"))


def test_the_same_settings_give_the_same_bytes(cohort, tmp_path):
    simulate(SETTINGS, tmp_path / "again")
    assert content(tmp_path / "again") == content(cohort)


def test_files_of_a_case_do_not_depend_on_the_others_but_on_the_seed(cohort, tmp_path):
    simulate(SETTINGS | {"cases": 2}, tmp_path / "few")
    few, many = content(tmp_path / "few"), content(cohort)
    per_case = [name for name in few if "/data/" in name]
    assert len(per_case) == 8
    assert all(few[name] == many[name] for name in per_case)
    simulate(SETTINGS | {"cases": 2, "seed": 12}, tmp_path / "other")
    assert not set(content(tmp_path / "other").values()) & set(few.values())


def test_a_failed_run_leaves_what_was_there(cohort, tmp_path):
    simulate(SETTINGS | {"cases": 1}, tmp_path / "kept")
    before = content(tmp_path / "kept")
    with pytest.raises(InputError, match="broken_slides: 2 is more than the 1 slides"):
        simulate(SETTINGS | {"cases": 1, "broken_slides": 2}, tmp_path / "kept")
    assert content(tmp_path / "kept") == before


def test_star_counts_have_the_layout_of_gdc(cohort, manifest):
    path = real("mirror/*/NCI-GDC/gdc-rnaseq-tool/*/tests/etc/test_set_1.final.tsv.gz")
    example = gzip.decompress(path.read_bytes()).decode()
    row = next(manifest[manifest["kind"] == "expression"].itertuples())
    lines, example = path_of(cohort, row).read_text().splitlines(), example.splitlines()
    assert lines[:2] == example[:2]
    for ours, theirs in zip(lines[2:6], example[2:6], strict=True):
        assert [field.isdigit() for field in ours.split("\t")] == [f.isdigit() for f in theirs.split("\t")]
        assert ours.split("\t")[0] == theirs.split("\t")[0]
    assert len(lines[6].split("\t")) == len(example[6].split("\t"))
    assert len(lines) == 6 + SETTINGS["genes"]


def test_tpm_and_fpkm_are_gdc_formulas(cohort, manifest):
    row = next(manifest[manifest["kind"] == "expression"].itertuples())
    table = pd.read_csv(path_of(cohort, row), sep="\t", comment="#").iloc[4:]
    genes = gene_catalogue(SETTINGS["genes"])
    assert list(table["gene_id"]) == list(genes["gene_id"])
    rate = table["unstranded"].to_numpy() / genes["exon_length"].to_numpy()
    np.testing.assert_allclose(table["tpm_unstranded"], rate / rate.sum() * 1e6, atol=6e-5)
    coding = (genes["gene_type"] == "protein_coding").to_numpy()
    expected = rate * 1e9 / table["unstranded"].to_numpy()[coding].sum()
    np.testing.assert_allclose(table["fpkm_unstranded"], expected, atol=6e-5)
    assert (table["unstranded"] == table["stranded_first"] + table["stranded_second"]).all()


def test_maf_has_the_columns_of_gdc(cohort, manifest):
    columns = list(pd.read_csv(real("data/gdc/chol_maf.tsv.gz"), sep="\t", nrows=0))
    barcodes = set()
    for row in manifest[manifest["kind"] == "mutations"].itertuples():
        with gzip.open(path_of(cohort, row), "rt") as file:
            assert file.readline() == "#version gdc-1.0.0\n"
        maf = pd.read_csv(path_of(cohort, row), sep="\t", comment="#", compression="gzip")
        assert list(maf) == columns
        assert maf["Variant_Classification"].isin(["Missense_Mutation", "Silent"]).any()
        assert maf["Tumor_Sample_Barcode"].str.startswith(row.case_id).all()
        barcodes |= set(maf["Tumor_Sample_Barcode"])
    assert len(barcodes) == SETTINGS["cases"]


def test_copy_number_has_the_columns_of_ascat(cohort, manifest):
    row = next(manifest[manifest["kind"] == "copy_number"].itertuples())
    table = pd.read_csv(path_of(cohort, row), sep="\t")
    copies = ["copy_number", "min_copy_number", "max_copy_number"]
    assert list(table) == ["gene_id", "gene_name", "chromosome", "start", "end", *copies]
    assert table.loc[table["chromosome"] != "chrY", "copy_number"].notna().all()
    assert table.loc[table["chromosome"] == "chrY", "copy_number"].isna().all()


def test_clinical_answers(cohort):
    truth = pd.read_parquet(cohort / "truth.parquet").set_index("case_id")
    answer = json.loads((cohort / "api.gdc.cancer.gov/cases").read_text())
    hits = {hit["submitter_id"]: hit for hit in answer["data"]["hits"]}
    assert list(hits) == list(truth.index)
    for case_id, hit in hits.items():
        died = hit["demographic"]["vital_status"] == "Dead"
        last = [hit["diagnoses"][0].get("days_to_last_follow_up", 0)]
        last += [visit["days_to_follow_up"] for visit in hit.get("follow_ups", [])]
        time = hit["demographic"]["days_to_death"] if died else max(last)
        assert (time, died) == (truth.loc[case_id, "time_days"], truth.loc[case_id, "event"] == 1)
    rows = json.loads((cohort / "www.cbioportal.org/api/studies/lgggbm_tcga_pub/clinical-data").read_text())
    labels = pd.DataFrame(rows).pivot(index="patientId", columns="clinicalAttributeId", values="value")
    assert (labels["GRADE"] == "G" + truth["grade"].astype(str)).all()
    assert (labels["IDH_STATUS"].map({"Mutant": "mutant", "WT": "wildtype"}) == truth["idh"]).all()
    assert ((labels["IDH_CODEL_SUBTYPE"] == "IDHmut-codel") == truth["codel_1p19q"]).all()


def test_living_patients_mostly_lack_the_follow_up_of_the_diagnosis():
    cases = draw_cases(Settings(cases=400, seed=1, missing=0.2))
    hits = gdc_cases(cases, Settings(seed=1))["data"]["hits"]
    living = [hit for hit, case in zip(hits, cases, strict=True) if not case.event]
    lacking = np.mean(["days_to_last_follow_up" not in hit["diagnoses"][0] for hit in living])
    assert 0.5 < lacking < 0.75
    lost = [hit for hit, case in zip(hits, cases, strict=True) if not case.has_follow_up]
    assert lost
    assert not any("follow_ups" in hit or "days_to_death" in hit["demographic"] for hit in lost)


def test_gene_catalogue():
    assert (gene_catalogue(n_named())["factor"] != "").sum() > 100
    many = gene_catalogue(2500)
    assert len(many) == 2500
    assert many["gene_id"].is_unique
    assert many["gene_id"].is_monotonic_increasing
    assert many["gene_name"].duplicated().any()  # as in GENCODE
    codel = many["gene_name"][on_arm(many, "1p") | on_arm(many, "19q")]
    assert {"FUBP1", "CIC"} <= set(codel)
    assert not {"MDM4", "SMARCA4"} & set(codel)


def test_expression_shows_the_tumour_and_hides_the_microenvironment():
    settings = Settings(cases=150, seed=2, genes=230, missing=0)
    cases, genes = draw_cases(settings), gene_catalogue(230)
    lines = [star_counts(case, settings).splitlines()[6:] for case in cases]
    tpm = np.array([[line.split("\t")[6] for line in file] for file in lines], float)
    table = np.log2(1 + tpm)
    for factor, low, high in (("tumour", 0.7, 0.97), ("microenvironment", 0.25, 0.65)):
        truth = np.array([getattr(case, factor) for case in cases])
        group = table[:, (genes["factor"] == factor).to_numpy()]
        score = np.linalg.svd(group - group.mean(0), full_matrices=False)[0][:, 0]
        assert low < abs(np.corrcoef(score, truth)[0, 1]) < high


def test_alterations_follow_the_labels():
    settings = Settings(cases=150, seed=3, genes=230, missing=0)
    cases = draw_cases(settings)
    idh1, arm, lost = [], [], []
    for case in cases:
        maf = gzip.decompress(masked_mutations(case, settings)).decode()
        idh1.append("\nIDH1\t" in maf)
        table = [line.split("\t") for line in gene_level_copy_number(case, settings).splitlines()[1:]]
        copies = {fields[1]: int(fields[5] or -1) for fields in table}
        arm.append(copies["FUBP1"] < copies["TP53"] and copies["CIC"] < copies["TP53"])
        lost.append(copies["CDKN2A"] == 0)
    mutant = np.array([case.idh == "mutant" for case in cases])
    assert not np.array(idh1)[~mutant].any()
    assert np.array(idh1)[mutant].mean() > 0.9
    assert arm == [case.codel for case in cases]
    # Homozygous loss of CDKN2A must never contradict the diagnosis.
    assert any(lost)
    assert {case.diagnosis for case, gone in zip(cases, lost, strict=True) if gone} <= {
        "glioblastoma",
        "astrocytoma_grade4",
    }


def test_a_larger_cohort_damages_the_same_slides_where_there_are_enough():
    small, large = (draw_cases(Settings(cases=cases, seed=1, missing=0)) for cases in (24, 60))
    assert damaged_slides(small, 3) == damaged_slides(large, 3)
    assert damaged_slides(small, 4) != damaged_slides(large, 4)  # 24 slides have three sevenths from the fourth
