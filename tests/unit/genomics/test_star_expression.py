"""STAR counts: every kind of damage is named; TPM is checked against counts and gene lengths."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from histofuse.genomics.expression import STAR_COLUMNS, as_table, expression_matrix, read_star
from histofuse.io import InputError, atomic, sha256

REAL = Path(
    "../shared/mirror/raw.githubusercontent.com/NCI-GDC/gdc-rnaseq-tool/9a0fccece9b7f59c046c664d94dea2cb42dbcb08/tests/etc"
)
needs_real_file = pytest.mark.skipif(not REAL.exists(), reason="the GDC's own example is not in ../shared/mirror")

GENES = [
    ("ENSG00000000003.15", "TSPAN6", "protein_coding"),
    ("ENSG00000002586.20", "CD99", "protein_coding"),
    ("ENSG00000002586.20_PAR_Y", "CD99", "protein_coding"),
    ("ENSG00000228630.5", "HOTAIR", "lncRNA"),
]
LENGTHS = np.array([4000.0, 1000.0, 1000.0, 2000.0])


def star(path, counts, genes=GENES, edit=None):
    """Write a STAR file in the GDC's layout; `edit` may change its lines (0 is the comment)."""
    rate = np.array(counts) / LENGTHS[: len(genes)]
    tpm, fpkm = rate / rate.sum() * 1e6, rate / sum(counts) * 1e9
    lines = ["# gene-model: GENCODE v36", "\t".join(STAR_COLUMNS)]
    for name in ("N_unmapped", "N_multimapping", "N_noFeature", "N_ambiguous"):
        lines.append(f"{name}\t\t\t10\t10\t10\t\t\t")
    for gene, count, t, f in zip(genes, counts, tpm, fpkm):
        lines.append("\t".join([*gene, str(count), "0", str(count), f"{t:.4f}", f"{f:.4f}", f"{f / 2:.4f}"]))
    if edit:
        edit(lines)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt") as file:
        file.write("\n".join(lines) + "\n")
    return path


def test_a_matrix_in_one_gene_order(tmp_path):
    counts = {"C-2": [400, 10, 30, 0], "C-1": [0, 100, 0, 20]}
    files = [(case, star(tmp_path / f"{case}.tsv.gz", values)) for case, values in counts.items()]
    matrix, excluded = expression_matrix(files)
    assert excluded.empty
    assert matrix.obs_names.tolist() == ["C-1", "C-2"]
    assert matrix.var_names.tolist() == ["CD99", "HOTAIR", "TSPAN6"]
    assert matrix.var["gene_id"].tolist() == ["ENSG00000002586", "ENSG00000228630", "ENSG00000000003"]
    # The two copies of CD99 are summed.
    assert matrix.layers["counts"].tolist() == [[100, 20, 0], [40, 0, 400]]
    # Rates per base: C-1 0.1 + 0 and 0.01 of 0.11; C-2 0.01 + 0.03 and 0.1 of 0.14.
    expected = np.array([[0.1 / 0.11, 0.01 / 0.11, 0], [0.04 / 0.14, 0, 0.1 / 0.14]]) * 1e6
    np.testing.assert_allclose(matrix.layers["tpm"], expected, rtol=1e-6)
    np.testing.assert_allclose(matrix.layers["log_tpm"], np.log2(1 + expected), rtol=1e-6)
    table = as_table(matrix)
    assert table.columns.tolist() == ["case_id", "CD99", "HOTAIR", "TSPAN6"]
    assert table["TSPAN6"].dtype == np.float32


def test_genes_are_named_by_their_ids(tmp_path):
    genes = [
        ("ENSG00000122545.22", "SEPT7", "protein_coding"),  # the symbol that GENCODE gave it before SEPTIN7
        ("ENSG00000299999.1", "SEPTIN7", "protein_coding"),  # another entry of the same gene
        ("ENSG00000228630.5", "HOTAIR", "lncRNA"),  # not in the canonical list
    ]
    path = star(tmp_path / "1.tsv", [30, 20, 50], genes=genes, edit=None)
    matrix, _ = expression_matrix([("C-1", path)])
    assert matrix.var_names.tolist() == ["HOTAIR", "SEPTIN7"]
    assert matrix.var["gene_name"].tolist() == ["HOTAIR", "SEPT7"]
    assert matrix.var["gene_id"].tolist() == ["ENSG00000228630", "ENSG00000122545"]
    assert matrix.layers["counts"].tolist() == [[50, 50]]


def test_gene_types_are_chosen_after_tpm(tmp_path):
    files = [("C-1", star(tmp_path / "1.tsv", [0, 100, 0, 20]))]
    matrix, _ = expression_matrix(files, gene_types=["lncRNA"])
    assert matrix.var_names.tolist() == ["HOTAIR"]
    assert matrix.layers["tpm"][0, 0] == pytest.approx(1e6 / 11)
    with pytest.raises(
        InputError, match=r"no gene is of the type\(s\) .*the files have \['lncRNA', 'protein_coding'\]"
    ):
        expression_matrix(files, gene_types=["protein-coding"])


def test_the_same_input_gives_the_same_bytes(tmp_path):
    files = [(f"C-{n}", star(tmp_path / f"{n}.tsv", [n, 2, 3, 4])) for n in range(3)]
    for name in ("a.h5ad", "b.h5ad"):
        with atomic(tmp_path / name) as temporary:
            expression_matrix(files)[0].write_h5ad(temporary, compression="gzip")
    assert sha256(tmp_path / "a.h5ad") == sha256(tmp_path / "b.h5ad")


def cell(line, column, value):
    def edit(lines):
        cells = lines[line].split("\t")
        cells[STAR_COLUMNS.index(column)] = value
        lines[line] = "\t".join(cells)

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (cell(7, "unstranded", "many"), r"line 8 \(ENSG00000002586\.20\): unstranded is many, not a number"),
        (cell(7, "unstranded", "-1"), "line 8 .*unstranded is -1"),
        (cell(7, "unstranded", "1.5"), "counts are not whole numbers"),
        (cell(7, "tpm_unstranded", "NA"), "line 8 .*tpm_unstranded is nan, not a number"),
        (cell(7, "fpkm_unstranded", ""), "line 8 .*fpkm_unstranded is nan"),
        (cell(7, "fpkm_unstranded", "inf"), "line 8 .*fpkm_unstranded is inf"),
        (cell(6, "tpm_unstranded", "5"), "line 7 .*tpm_unstranded is 5 but fpkm_unstranded makes it"),
        (cell(8, "gene_id", "ENSG00000002586.20"), r"gene ENSG00000002586\.20 is there twice"),
        (cell(8, "gene_name", ""), "line 9: the gene has no gene_name"),
        (cell(1, "tpm_unstranded", "tpm"), r"column\(s\) tpm_unstranded are missing"),
        (lambda lines: lines.pop(3), "four N_. rows"),
        (lambda lines: lines.__delitem__(slice(6, None)), "no gene below"),
        (lambda lines: lines.__setitem__(slice(None), ["<html>"]), "columns? .*missing|are missing"),
        (lambda lines: lines.clear(), "missing"),
    ],
)
def test_damaged_files_are_named(tmp_path, edit, message):
    path = star(tmp_path / "broken.tsv", [400, 10, 30, 5], edit=edit)
    with pytest.raises(InputError, match=rf"broken\.tsv.*{message}"):
        read_star(path)


def test_a_truncated_gzip_is_named(tmp_path):
    path = star(tmp_path / "cut.tsv.gz", [400, 10, 30, 5])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"cut\.tsv\.gz: cannot be read as a table"):
        read_star(path)


def test_a_bad_file_is_set_aside_up_to_a_limit(tmp_path):
    files = [(f"C-{n}", star(tmp_path / f"{n}.tsv", [400, 10, 30, n])) for n in range(4)]
    star(tmp_path / "1.tsv", [400, 10, 30, 5], genes=GENES[::-1])
    matrix, excluded = expression_matrix(files, max_excluded=0.25)
    assert matrix.obs_names.tolist() == ["C-0", "C-2", "C-3"]
    assert excluded["case_id"].tolist() == ["C-1"]
    assert "genes or their order differ" in excluded["reason"].item()
    with pytest.raises(InputError, match="1 of 4 files of STAR counts cannot be used"):
        expression_matrix(files, max_excluded=0.2)
    with pytest.raises(InputError, match="case C-0 has two files"):
        expression_matrix([files[0], files[0]])
    with pytest.raises(InputError, match="there is no file"):
        expression_matrix([])


@needs_real_file
def test_the_gdcs_own_example():
    table = read_star(REAL / "test_set_1.final.tsv.gz")
    lengths = pd.read_csv(REAL / "test_set_1.gene_info.tsv.gz", sep="\t").set_index("gene_id")["total_exon_length"]
    rate = table["counts"] / table["gene_id"].map(lengths)
    assert table["counts"].sum() > 0
    np.testing.assert_allclose(table["tpm"], rate / rate.sum() * 1e6, rtol=1e-9)
