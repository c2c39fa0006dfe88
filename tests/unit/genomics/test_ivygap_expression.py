"""The Allen Institute's zip, made here in its layout: right values, and every kind of damage named."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from histofuse.genomics import ivygap
from histofuse.genomics.ivygap import add_details, add_sub_blocks, by_case, read_ivygap_zip
from histofuse.io import InputError

MIRROR = Path("../shared/mirror/raw.githubusercontent.com")
SUB_BLOCKS = MIRROR / "vjcitn/ivygapSEOLD/6c0bd004c9e1e14a2837fb35fdf588d9947c1956/inst/CSV/sub_block_details.csv"
SAMPLES = MIRROR / "maevegaff/GliomaDataBase/b9aab886995bd54f484210eef41ffa1a60d0a100/new_file.csv"
needs_real_tables = pytest.mark.skipif(
    not (SUB_BLOCKS.exists() and SAMPLES.exists()), reason="IvyGAP's own tables are not in ../shared/mirror"
)

# The atlas's number, NCBI's id and the symbol of 2014: SEPT7 has been SEPTIN7 since, and is there twice.
GENES = pd.DataFrame(
    {
        "gene_id": ["499304660", "499304661", "499304664", "499304666", "499304668", "499304670"],
        "chromosome": ["7", "7", "7", "19", "X", "1"],
        "gene_entrez_id": ["1956", "989", "989", "1", "100653024", ""],
        "gene_symbol": ["EGFR", "SEPT7", "SEPT7", "A1BG", "LOC100653024", ""],
        "gene_name": ["epidermal growth factor receptor", "septin 7", "septin 7", "a", "b", "nothing known"],
    }
)
FPKM = np.array(
    [  # 305405294, 305273026, 300173630
        [100.0, 0.0, 50.0],
        [30.0, 10.0, 0.0],
        [20.0, 0.0, 25.0],
        [0.0, 40.0, 0.0],
        [0.0, 30.0, 25.0],
        [50.0, 20.0, 0.0],
    ]
)
COLUMNS = pd.DataFrame(
    {
        "tumor_id": ["711547", "711547", "703393"],
        "tumor_name": ["W31-1-1", "W31-1-1", "W1-1-2"],
        "block_id": ["1", "2", "3"],
        "block_name": ["W31-1-1-E", "W31-1-1-A", "W1-1-2-D.2"],
        "specimen_id": ["4", "5", "6"],
        "specimen_name": ["W31-1-1-E.03", "W31-1-1-A.01", "W1-1-2-D.2.01"],
        "rna_well_id": ["305405294", "305273026", "300173630"],
        "polygon_id": ["7", "8", "9"],
        "structure_id": ["309780600", "309780592", "309780592"],
        "structure_abbreviation": ["CT-control-ID2", "CT-reference-histology", "CT-reference-histology"],
        "structure_color": ["05D004"] * 3,
        "structure_name": ["Cellular Tumor sampled by low expression of gene ID2"]
        + ["Cellular Tumor sampled by reference histology"] * 2,
    }
)


def tables(fpkm=FPKM, genes=GENES, columns=COLUMNS):
    """The three tables as they lie in the archive."""
    table = pd.DataFrame(fpkm, columns=columns["rna_well_id"] if np.ndim(fpkm) == 2 else None)
    table.insert(0, "gene_id \\ rna_well_id", genes["gene_id"].to_numpy())
    return {"fpkm_table.csv": table, "rows-genes.csv": genes, "columns-samples.csv": columns}


def archive(path, contents=None, **more):
    """Write a zip of tables (or bytes) by member name."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in {**(tables() if contents is None else contents), **more}.items():
            file.writestr(name, content.to_csv(index=False) if isinstance(content, pd.DataFrame) else content)
    return path


def test_samples_by_genes(tmp_path):
    samples = read_ivygap_zip(archive(tmp_path / "matrix.zip", **{"README.txt": "text"}))
    assert samples.obs_names.tolist() == ["300173630", "305273026", "305405294"]
    assert samples.var_names.tolist() == ["A1BG", "EGFR", "LOC100653024", "SEPTIN7"]
    assert samples.var["gene_id"].tolist() == ["1", "1956", "100653024", "989"]
    assert samples.var["gene_name"].tolist() == ["A1BG", "EGFR", "LOC100653024", "SEPT7"]
    assert samples.var["gene_type"].tolist() == ["protein_coding", "protein_coding", "", "protein_coding"]
    expected = np.array([[0.0, 50, 25, 25], [40, 0, 30, 10], [0, 100, 0, 50]])
    assert samples.layers["fpkm"].tolist() == expected.tolist()
    # The gene without a name counts in the sum: 100, 100 and 200 FPKM.
    tpm = expected / [[100], [100], [200]] * 1e6
    np.testing.assert_allclose(samples.layers["tpm"], tpm, rtol=1e-6)
    np.testing.assert_allclose(samples.layers["log_tpm"], np.log2(1 + tpm), rtol=1e-6)
    assert {layer.dtype for layer in samples.layers.values()} == {np.dtype(np.float32)}
    first = samples.obs.loc["300173630"]
    assert first[["case_id", "block", "sub_block"]].tolist() == ["W1-1-2", "W1-1-2-D.2", "W1-1-2-D.2.01"]
    assert first["structure"] == "CT-reference-histology"


def test_order_and_spelling_of_the_tables_do_not_matter(tmp_path):
    straight = read_ivygap_zip(archive(tmp_path / "a.zip"))
    shuffled = tables()
    shuffled["fpkm_table.csv"] = shuffled["fpkm_table.csv"].iloc[[3, 1, 5, 0, 2, 4], [0, 3, 1, 2]]
    shuffled["columns-samples.csv"] = COLUMNS.iloc[::-1].rename(
        columns={"rna_well_id": "rna_well", "structure_abbreviation": "structure_acronym"}
    )
    folder = {f"gene_expression_matrix/{name}": table for name, table in shuffled.items()}
    folder["__MACOSX/gene_expression_matrix/rows-genes.csv"] = "resource fork"
    other = read_ivygap_zip(archive(tmp_path / "b.zip", folder))
    pd.testing.assert_frame_equal(straight.obs, other.obs)
    pd.testing.assert_frame_equal(straight.var, other.var)
    for layer in straight.layers:
        np.testing.assert_array_equal(straight.layers[layer], other.layers[layer])


def test_a_tumour_is_the_mean_of_its_samples(tmp_path):
    samples = read_ivygap_zip(archive(tmp_path / "matrix.zip"))
    cases = by_case(samples)
    assert cases.obs_names.tolist() == ["W1-1-2", "W31-1-1"]
    assert cases.obs["n_samples"].tolist() == [1, 2]
    assert cases.obs["structures"].tolist() == [
        "CT-reference-histology",
        "CT-control-ID2, CT-reference-histology",
    ]
    tpm = np.array([[0, 5e5, 2.5e5, 2.5e5], [2e5, 2.5e5, 1.5e5, 1.75e5]])
    np.testing.assert_allclose(cases.layers["tpm"], tpm, rtol=1e-6)
    np.testing.assert_allclose(cases.layers["log_tpm"], np.log2(1 + tpm), rtol=1e-6)
    seen = by_case(samples, ["*-reference-histology"])
    assert seen.obs["n_samples"].tolist() == [1, 1]
    np.testing.assert_allclose(seen.layers["tpm"][1], [4e5, 0, 3e5, 1e5], rtol=1e-6)
    assert by_case(samples, ["CT-control-ID2"]).obs_names.tolist() == ["W31-1-1"]
    with pytest.raises(InputError, match="'CT' is not a structure of any sample; there are CT-control-ID2, CT-ref"):
        by_case(samples, ["CT"])
    with pytest.raises(InputError, match="the list is empty"):
        by_case(samples, [])


def test_the_portals_tables_are_joined(tmp_path):
    samples = read_ivygap_zip(archive(tmp_path / "matrix.zip"))
    details = pd.DataFrame(
        {
            "sample_id": ["305405294", "300173630", "1"],
            "tumor_name": ["W31-1-1", "W1-1-2", "W9-1-1"],
            "study_name": ["Cancer Stem Cells RNA Seq", "Anatomic Structures RNA Seq", "of no interest"],
        }
    )
    add_details(samples, details, "samples.csv")
    assert samples.obs["study_name"].tolist() == ["Anatomic Structures RNA Seq", "", "Cancer Stem Cells RNA Seq"]
    sub_blocks = pd.DataFrame({"sub_block_id": ["11", "12"], "sub_block_name": ["W1-1-2-D.2.01", "W31-1-1-A.01"]})
    add_sub_blocks(samples, sub_blocks, "blocks.csv")
    assert samples.obs["sub_block_id"].tolist() == ["11", "12", ""]
    wrong = r"samples\.csv: sample 305405294 is of tumour W9-1-1, in the archive of W31-1-1"
    with pytest.raises(InputError, match=wrong):
        add_details(samples, details.assign(tumor_name="W9-1-1").iloc[:1], "samples.csv")
    with pytest.raises(InputError, match="sample 1 is there twice"):
        add_details(samples, details.assign(sample_id="1"), "samples.csv")
    with pytest.raises(InputError, match="tumor_name is missing; there are sample_id"):
        add_details(samples, details[["sample_id"]], "samples.csv")
    with pytest.raises(InputError, match=r"blocks\.csv: sub-block X is there twice"):
        add_sub_blocks(samples, sub_blocks.assign(sub_block_name="X"), "blocks.csv")
    with pytest.raises(InputError, match="sub_block_id are missing; there are sub_block_name"):
        add_sub_blocks(samples, sub_blocks[["sub_block_name"]], "blocks.csv")


def with_value(row, column, value):
    changed = tables()
    changed["fpkm_table.csv"] = changed["fpkm_table.csv"].astype(object)
    changed["fpkm_table.csv"].iloc[row, column] = value
    return changed


def without(member, column):
    changed = tables()
    changed[member] = changed[member].drop(columns=column)
    return changed


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (with_value(1, 2, "many"), "fpkm_table.csv: sample 305273026, gene 499304661: many is not a number ≥ 0"),
        (with_value(0, 3, -0.5), "sample 300173630, gene 499304660: -0.5 is not a number"),
        (with_value(0, 1, ""), "sample 305405294, gene 499304660: nan is not a number"),
        (with_value(0, 1, "inf"), "sample 305405294, gene 499304660: inf is not a number"),
        (tables(np.log2(1 + FPKM)), r"the largest value is 6\.65821: the values look log-transformed"),
        (tables(FPKM * [1, 0, 1]), "every gene of sample 305273026 has zero FPKM"),
        (tables(FPKM * 0), "every gene of sample 305405294 has zero FPKM"),
        (with_value(1, 0, "499304660"), "fpkm_table.csv: gene 499304660 is there twice"),
        (with_value(1, 0, "5"), "rows-genes.csv: 1 ids of fpkm_table.csv are not described, the first 5"),
        (tables() | {"rows-genes.csv": pd.concat([GENES, GENES[:1]])}, "rows-genes.csv: id 499304660 is there twice"),
        (
            without("fpkm_table.csv", "305273026"),
            "columns-samples.csv: 1 ids are not in fpkm_table.csv, the first 305273026",
        ),
        (without("fpkm_table.csv", "gene_id \\ rna_well_id"), "expected a first column gene_id .* is '305405294'"),
        (without("rows-genes.csv", "gene_symbol"), "rows-genes.csv: the column gene_symbol or symbol is missing"),
        (
            without("columns-samples.csv", "rna_well_id"),
            "columns-samples.csv: the column rna_well_id or rna_well or .* is missing; there are tumor_id, tumor_name",
        ),
        (
            tables() | {"rows-genes.csv": GENES.assign(gene_entrez_id=GENES["gene_entrez_id"].to_numpy()[::-1])},
            "rows-genes.csv: .* gene ids are of other genes than their symbols",
        ),
        (without("columns-samples.csv", "tumor_name"), "the column tumor_name is missing"),
        (
            tables() | {"columns-samples.csv": COLUMNS.assign(tumor_name="W1-1-2")},
            "sample 305405294: the sub-block 'W31-1-1-E.03' is not one of tumour 'W1-1-2'",
        ),
        (
            tables() | {"columns-samples.csv": COLUMNS.assign(specimen_name="slide 7")},
            "the sub-block 'slide 7' is not one of tumour 'W31-1-1'",
        ),
        ({"fpkm_table.csv": "x"}, r"rows-genes\.csv is missing; the archive holds fpkm_table\.csv"),
        ({}, r"fpkm_table\.csv is missing; the archive holds nothing"),
        (tables() | {"rows-genes.csv": ""}, "cannot be read as the zip of the atlas .*; download it again"),
        (tables() | {"rows-genes.csv": b"gene_id,gene_symbol\n\xff\xff,A\n"}, "cannot be read as the zip"),
        (tables() | {"old/rows-genes.csv": GENES}, r"rows-genes\.csv is there 2 times"),
        (tables() | {"../../etc/cron.d/job": "x"}, "'../../etc/cron.d/job' would land outside"),
        (tables() | {"/etc/passwd": "x"}, "'/etc/passwd' would land outside"),
        (tables() | {"a\\..\\b": "x"}, r"would land outside"),
        (tables() | {"C:\\windows\\b": "x"}, r"would land outside"),
    ],
)
def test_damaged_archives_are_named(tmp_path, contents, message):
    path = archive(tmp_path / "matrix.zip", contents)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=rf"matrix\.zip: .*{message}|matrix\.zip: {message}"):
        read_ivygap_zip(path)
    assert sorted(tmp_path.rglob("*")) == before  # nothing is unpacked


def test_a_member_twice_is_refused(tmp_path):
    path = archive(tmp_path / "matrix.zip")
    with zipfile.ZipFile(path, "a") as file, pytest.warns(UserWarning, match="Duplicate name"):
        file.writestr("fpkm_table.csv", "gene_id,1\n")
    with pytest.raises(InputError, match=r"fpkm_table\.csv is there 2 times"):
        read_ivygap_zip(path)


def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(ivygap, "LARGEST", 1 << 20)
    path = archive(tmp_path / "matrix.zip", {**tables(), "rows-genes.csv": b"0" * (2 << 20)})
    assert path.stat().st_size < 1 << 14
    monkeypatch.setattr(pd, "read_csv", lambda file, **_: pytest.fail(file.name) if "rows" in file.name else None)
    with pytest.raises(InputError, match=r"rows-genes\.csv would unpack to 2097152 bytes, more than 1048576"):
        read_ivygap_zip(path)


def test_an_encrypted_member_is_refused(tmp_path):
    path = archive(tmp_path / "matrix.zip")
    content = bytearray(path.read_bytes())
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the bit that says so, in both headers of a member
        content[content.index(mark) + flags] |= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"fpkm_table\.csv is encrypted"):
        read_ivygap_zip(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n<!DOCTYPE html><html></html>", "it holds a web page, which the portal answers with status 200"),
        (b"gene_id,1\n", "File is not a zip file"),
        (b"", "File is not a zip file"),
    ],
)
def test_what_is_no_zip_is_named(tmp_path, content, message):
    path = tmp_path / "matrix.zip"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"cannot be read as the zip of the atlas \({message}\); download it again"):
        read_ivygap_zip(path)


def test_a_cut_or_changed_archive_is_named(tmp_path):
    whole = archive(tmp_path / "whole.zip").read_bytes()
    buffer = io.BytesIO(whole)
    with zipfile.ZipFile(buffer) as file:
        start = file.getinfo("fpkm_table.csv").header_offset + 60
    for name, content in {"cut": whole[:-30], "changed": whole[:start] + b"\0\0\0\0" + whole[start + 4 :]}.items():
        path = tmp_path / f"{name}.zip"
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"{name}\.zip: cannot be read as the zip"):
            read_ivygap_zip(path)
    with pytest.raises(InputError, match=r"none\.zip: cannot be read as the zip"):
        read_ivygap_zip(tmp_path / "none.zip")


@needs_real_tables
def test_the_real_samples_fit_the_layout(tmp_path):
    """All 270 real samples with their tumours and structures, around made-up values and sub-blocks' real names."""
    real = pd.read_csv(SAMPLES, dtype=str, keep_default_na=False)
    blocks = pd.read_csv(SUB_BLOCKS, dtype=str, keep_default_na=False)
    names = real["tumor_name"].map(blocks.groupby("tumor_name")["sub_block_name"].first())
    columns = pd.DataFrame(
        {
            "tumor_name": real["tumor_name"],
            "block_name": names.str.rpartition(".")[0],
            "specimen_name": names,
            "rna_well_id": real["sample_well"],
            "structure_abbreviation": real["structure_abbreviation"],
            "structure_name": real["structure_name"],
        }
    )
    fpkm = np.random.default_rng(1).gamma(1, 100, (len(GENES), len(columns)))
    samples = read_ivygap_zip(archive(tmp_path / "matrix.zip", tables(fpkm, columns=columns)))
    add_details(samples, real, SAMPLES)
    add_sub_blocks(samples, blocks, SUB_BLOCKS)
    assert (samples.obs["sub_block_id"] != "").all()
    cases = by_case(samples)
    assert (cases.n_obs, cases.obs["n_samples"].sum()) == (37, 270)
    seen = by_case(samples, ["*-reference-histology"])
    assert (seen.n_obs, seen.obs["n_samples"].sum()) == (10, 122)
    assert by_case(samples, ["CT-reference-histology"]).obs["n_samples"].tolist() == [3] * 10
