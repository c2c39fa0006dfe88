"""Mutations and copy number calls, by hand and on a real MAF."""

import csv
import gzip
import itertools
from pathlib import Path

import numpy as np
import pytest

from histofuse.genomics.alterations import NON_SILENT, alteration_matrix, read_copy_number, read_maf
from histofuse.io import InputError

REAL = Path("../shared/data/gdc/chol_maf.tsv.gz")
HEADER = "Hugo_Symbol\tChromosome\tVariant_Classification\tTumor_Sample_Barcode"


def maf(path, case, *variants):
    lines = ["#version gdc-1.0.0", "#filedate 20240101", HEADER]
    lines += [f"{gene}\tchr1\t{kind}\t{case}-01A-11D" for gene, kind in variants]
    with gzip.open(path, "wt") as file:
        file.write("\n".join(lines) + "\n")
    return path


def copy_number(path, *genes):
    lines = ["gene_id\tgene_name\tchromosome\tstart\tend\tcopy_number\tmin_copy_number\tmax_copy_number"]
    lines += [
        f"ENSG{9 * 10**10 + n}.1\t{name}\t{where}\t1\t2\t{c}\t{c}\t{c}" for n, (name, where, c) in enumerate(genes)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_only_mutations_that_change_the_protein_count(tmp_path):
    path = maf(
        tmp_path / "1.maf.gz",
        "C-1",
        ("IDH1", "Missense_Mutation"),
        ("IDH1", "Silent"),
        ("TTN", "Silent"),
        ("TP53", "Splice_Site"),
        ("ATRX", "3'UTR"),
    )
    assert read_maf(path, "C-1") == {"IDH1", "TP53"}
    assert read_maf(maf(tmp_path / "none.maf.gz", "C-1"), "C-1") == frozenset()


def test_samples_of_cptac_do_not_name_their_patient(tmp_path):
    lines = [HEADER, *(f"{gene}\tchr1\tMissense_Mutation\tCPT0206330008" for gene in ("IDH1", "TP53"))]
    (tmp_path / "1.maf").write_text("\n".join(lines) + "\n")
    assert read_maf(tmp_path / "1.maf", "C3L-00016") == {"IDH1", "TP53"}
    (tmp_path / "2.maf").write_text("\n".join([*lines, "TTN\tchr2\tMissense_Mutation\tCPT0001270002"]) + "\n")
    with pytest.raises(InputError, match="the manifest says case C3L-00016, the file has variants of CPT0001270002"):
        read_maf(tmp_path / "2.maf", "C3L-00016")


def test_bad_mafs_are_named(tmp_path):
    path = maf(tmp_path / "1.maf.gz", "C-1", ("IDH1", "Missense_Mutation"), ("", "Silent"))
    with pytest.raises(InputError, match=r"1\.maf\.gz, line 5: Hugo_Symbol is empty"):
        read_maf(path, "C-1")
    with pytest.raises(InputError, match=r"the manifest says case C-2, the file has variants of C-1-01A-11D"):
        read_maf(maf(tmp_path / "2.maf.gz", "C-1", ("IDH1", "Silent")), "C-2")
    (tmp_path / "3.maf.gz").write_text("not gzip")
    with pytest.raises(InputError, match=r"3\.maf\.gz: cannot be read"):
        read_maf(tmp_path / "3.maf.gz", "C-1")
    (tmp_path / "4.maf").write_text("Hugo_Symbol\tTumor_Sample_Barcode\n")
    with pytest.raises(InputError, match="Variant_Classification are missing"):
        read_maf(tmp_path / "4.maf", "C-1")


def test_calls_are_relative_to_the_ploidy(tmp_path):
    levels = [("A", 0), ("B", 1), ("C", 2), ("D", 3), ("E", 4), ("F", 5), ("G", 50), ("H", "")]
    rest = [(f"R{n}", "chr7", 2) for n in range(20)]
    path = copy_number(tmp_path / "diploid.tsv", *[(name, "chr1", c) for name, c in levels], *rest)
    assert read_copy_number(path).loc[list("ABCDEFGH")].tolist() == [-2, -1, 0, 1, 1, 2, 2, 0]
    rest = [(f"R{n}", "chr7", 4) for n in range(20)]
    path = copy_number(tmp_path / "tetraploid.tsv", *[(name, "chr1", c) for name, c in levels], *rest)
    assert read_copy_number(path).loc[list("ABCDEFGH")].tolist() == [-2, -1, -1, -1, 0, 1, 2, 0]


def test_former_names_become_the_approved_ones(tmp_path):
    mutations = maf(tmp_path / "1.maf.gz", "C-1", ("MLL", "Missense_Mutation"), ("NOGENE", "Missense_Mutation"))
    assert read_maf(mutations, "C-1") == {"KMT2A", "NOGENE"}
    path = tmp_path / "1.tsv"
    copy_number(path, ("MLL", "chr11", 2), ("LOC1", "chr2", 2))
    path.write_text(path.read_text().replace("ENSG90000000000.1", "ENSG00000118058.23"))
    assert read_copy_number(path).index.tolist() == ["KMT2A", "LOC1"]


def test_sex_chromosomes_and_ambiguous_symbols_are_left_out(tmp_path):
    path = copy_number(
        tmp_path / "1.tsv", ("A", "chr1", 2), ("Y_RNA", "chr1", 1), ("Y_RNA", "chr2", 3), ("AR", "chrX", 1)
    )
    assert read_copy_number(path).to_dict() == {"A": 0}


@pytest.mark.parametrize(
    ("value", "message"), [("two", r"line 3: copy_number is two, not a number"), ("-1", "line 3: copy_number is -1")]
)
def test_bad_copy_numbers_are_named(tmp_path, value, message):
    path = copy_number(tmp_path / "bad.tsv", ("A", "chr1", 2), ("B", "chr1", value))
    with pytest.raises(InputError, match=rf"bad\.tsv, {message}"):
        read_copy_number(path)


def test_a_file_that_says_nothing_is_refused(tmp_path):
    path = copy_number(tmp_path / "bad.tsv", ("A", "chr1", 2), ("B", "chr1", ""), ("C", "chr1", ""))
    with pytest.raises(InputError, match="most autosomal genes have no copy number"):
        read_copy_number(path)


def cohort(tmp_path):
    """Ten cases: IDH1 mutated in 5, RARE in 1; EGFR amplified in 4, CDKN2A deleted in 2, GAIN one copy more in all."""
    mafs, copies = [], []
    for n in range(10):
        case = f"C-{n}"
        genes = [("IDH1", "Missense_Mutation")] * (n < 5) + [("RARE", "Nonsense_Mutation")] * (n == 0)
        mafs.append((case, maf(tmp_path / f"{n}.maf.gz", case, *genes)))
        values = {"EGFR": 9 if n < 4 else 2, "CDKN2A": 0 if n in (3, 4) else 2, "GAIN": 3}
        rest = [(f"LOC{k}", "chr2", 2) for k in range(9)]
        rows = [(gene, "chr7", c) for gene, c in values.items()]
        copies.append((case, copy_number(tmp_path / f"{n}.tsv", *rows, *rest)))
    return mafs, copies


def test_frequent_and_named_alterations_make_the_matrix(tmp_path):
    mafs, copies = cohort(tmp_path)
    matrix, excluded, _ = alteration_matrix(mafs[::-1], copies, min_frequency=0.2)
    assert matrix.columns.tolist() == ["case_id", "IDH1_mut", "RARE_mut", "EGFR_cnv", "CDKN2A_cnv", "GAIN_cnv"]
    assert matrix["IDH1_mut"].tolist() == [1] * 5 + [0] * 5
    assert matrix["EGFR_cnv"].tolist() == [2] * 4 + [0] * 6
    assert matrix["CDKN2A_cnv"].tolist() == [0, 0, 0, -2, -2, 0, 0, 0, 0, 0]
    assert matrix["IDH1_mut"].dtype == matrix["EGFR_cnv"].dtype == np.int8
    assert excluded.empty
    frequent, *_ = alteration_matrix(mafs, copies, min_frequency=0.5)  # in three of ten or more
    assert frequent.columns.tolist() == ["case_id", "IDH1_mut", "EGFR_cnv", "GAIN_cnv"]
    named, *_ = alteration_matrix(mafs, copies, genes=["LOC1", "RARE"], min_frequency=0.3)
    assert named.columns.tolist()[1:4] == ["IDH1_mut", "LOC1_mut", "RARE_mut"]
    assert named.columns.tolist()[4:] == ["EGFR_cnv", "CDKN2A_cnv", "GAIN_cnv", "LOC1_cnv"]
    assert (named["LOC1_cnv"] == 0).all()
    with pytest.raises(InputError, match="`genes` names CDKN2C: no copy number file and no MAF knows them"):
        alteration_matrix(mafs, copies, genes=["CDKN2C"])


def test_a_case_needs_both_files(tmp_path):
    mafs, copies = cohort(tmp_path)
    matrix, *_ = alteration_matrix(mafs[:6], copies[4:])
    assert matrix["case_id"].tolist() == ["C-4", "C-5"]
    with pytest.raises(InputError, match="no case has both"):
        alteration_matrix(mafs[:4], copies[4:])


def test_the_diagnosis_has_calls_of_every_case_with_copy_number(tmp_path):
    mafs, copies = cohort(tmp_path)
    matrix, _, calls = alteration_matrix(mafs[6:], copies[::-1], min_frequency=0.5)
    assert matrix["case_id"].tolist() == ["C-6", "C-7", "C-8", "C-9"]
    assert calls.to_dict("list") == {
        "case_id": [f"C-{n}" for n in range(10)],
        "CDKN2A_cnv": [0, 0, 0, -2, -2, 0, 0, 0, 0, 0],
    }
    for _, path in copies:  # files of a panel that does not have the gene
        path.write_text(path.read_text().replace("CDKN2A", "NOGENE"))
    assert alteration_matrix(mafs, copies)[2].columns.tolist() == ["case_id"]


def test_bad_files_are_set_aside_up_to_a_limit(tmp_path):
    mafs, copies = cohort(tmp_path)
    Path(copies[9][1]).write_text("<html>")
    matrix, excluded, _ = alteration_matrix(mafs, copies, max_excluded=0.1)
    assert len(matrix) == 9
    assert excluded["case_id"].tolist() == ["C-9"]
    with pytest.raises(InputError, match="1 of 10 files of copy number cannot be used"):
        alteration_matrix(mafs, copies, max_excluded=0.05)


def test_a_file_of_other_genes_is_set_aside(tmp_path, capsys):
    mafs, copies = cohort(tmp_path)
    copy_number(Path(copies[0][1]), ("OTHER", "chr1", 2))  # the first case: the majority decides, not the order
    matrix, excluded, _ = alteration_matrix(mafs, copies, max_excluded=0.1)
    assert matrix["case_id"].tolist() == [f"C-{n}" for n in range(1, 10)]
    assert excluded["case_id"].tolist() == ["C-0"]
    assert "0.tsv: lists 1 genes, not the 12 in the same order that most copy number" in excluded["reason"].iloc[0]
    assert "set aside: C-0" in capsys.readouterr().out
    with pytest.raises(
        InputError, match=r"1 of 10 files of copy number cannot be used \(allowed: 5%\)\. The first: .*"
    ):
        alteration_matrix(mafs, copies, max_excluded=0.05)


def test_no_column_that_a_training_part_could_choose_is_left_out(tmp_path):
    """Any half of the cases: what is frequent there is in the matrix."""
    mafs, copies = cohort(tmp_path)
    everything, *_ = alteration_matrix(mafs, copies, min_frequency=0.0)
    everything = everything.set_index("case_id")
    for frequency in (0.2, 0.4, 0.6, 1.0):
        kept = set(alteration_matrix(mafs, copies, min_frequency=frequency)[0].columns)
        for train in itertools.combinations(range(10), 5):
            frequent = (everything.iloc[list(train)] != 0).mean() >= frequency
            assert set(frequent.index[frequent]) <= kept


@pytest.mark.skipif(not REAL.exists(), reason="the real MAF is not in ../shared/data")
def test_a_real_maf(tmp_path):
    with gzip.open(REAL, "rt") as file:
        header, *lines = file.read().splitlines()
    rows = list(csv.DictReader([header, *lines], delimiter="\t", quoting=csv.QUOTE_NONE))
    case = rows[0]["Tumor_Sample_Barcode"][:12]
    mine = [line for line, row in zip(lines, rows) if row["Tumor_Sample_Barcode"].startswith(case)]
    (tmp_path / "case.maf").write_text("\n".join([header, *mine]) + "\n")
    expected = {
        row["Hugo_Symbol"]
        for row in rows
        if row["Tumor_Sample_Barcode"].startswith(case) and row["Variant_Classification"] in NON_SILENT
    }
    assert read_maf(tmp_path / "case.maf", case) == expected
    assert len(expected) > 10
    with pytest.raises(InputError, match=f"the manifest says case {case}"):
        read_maf(REAL, case)  # all patients in one file
