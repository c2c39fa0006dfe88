"""Nothing that the genomics stage fits looks at the test part: replaced by noise there, every figure keeps its bits."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from histofuse.genomics.alterations import alteration_matrix
from histofuse.genomics.embedding import case_profiles, embed_profiles, embedding_table, token_of_gene
from histofuse.genomics.expression import as_table, join_cohorts
from histofuse.genomics.scgpt.checkpoint import load_checkpoint
from histofuse.genomics.selection import select_genes
from histofuse.genomics.smoothing.mlp import initial_weights, smooth
from histofuse.sources.simulated.checkpoint import simulate_checkpoint
from histofuse.training.dataset import load_split

CASES, GENES, ALTERED = 48, 120, 30
SELECTIONS = {
    "variance": {"flavour": "variance"},
    "pooled": {"per_source": False},
    "seurat": {"flavour": "seurat"},
    "cell_ranger": {"flavour": "cell_ranger"},
    "seurat_v3": {"flavour": "seurat_v3"},
    "as_published": {"fitted_on": "all"},
}
SCALINGS = {
    "z": {},
    "per_source": {"per_source": True},
    "quantile": {"quantile": True},
    "quantile_per_source": {"quantile": True, "per_source": True},
    "components": {"components": 5},
    "components_per_source": {"components": 5, "per_source": True},
    "as_they_are": {"standardise": False},
}
INPUTS = {
    **{
        f"{selection}_{scaling}": {"from": "expression", "selection": selection, "group": ["tumour"], **options}
        for selection in SELECTIONS
        for scaling, options in SCALINGS.items()
    },
    "alterations": {"min_frequency": 0.25},
    "any_gain_or_loss": {"from": "alterations", "min_frequency": 0.25, "cnv_level": 1},
    "clinical": {},
    "scgpt": {},
    "scgpt_per_source": {"from": "scgpt", "per_source": True},
    "smoothed": {},
    "smoothed_components": {"from": "smoothed", "components": 5},
    "zscore": {},
}
# Each is fitted on all cases, and says so: genes chosen as published, z-scores shown to scGPT.
LEAKS = ("as_published", "zscore")


class Cohort:
    """Raw material of 48 cases of two sources: expression, alteration files, case table; and two splits."""

    def __init__(self):
        rng = np.random.default_rng(11)
        self.ids = np.array([f"C-{k:02}" for k in range(CASES)])
        self.sources = pd.Series(np.where(np.arange(CASES) % 3, "tcga", "ivygap"), index=self.ids)
        mean = np.exp(rng.normal(3, 1.5, GENES))
        self.counts = rng.poisson(rng.gamma(2, 0.5, size=(CASES, GENES)) * mean)
        self.mutated = rng.random((CASES, ALTERED)) < np.linspace(0.02, 0.6, ALTERED)
        self.copies = np.where(rng.random((CASES, ALTERED)) < np.linspace(0.02, 0.6, ALTERED), 6, 2)
        self.age, self.sex = rng.integers(20, 80, CASES).astype(float), rng.choice(["f", "m"], CASES)
        self.age[::7] = np.nan
        self.time, self.event = rng.exponential(500, CASES), rng.integers(0, 2, CASES)
        parts = np.array(["train"] * 30 + ["val"] * 6 + ["test"] * 12)
        self.parts = [rng.permutation(parts) for _ in range(2)]

    def replace(self, rows):
        """Noise in everything that is known of these cases, their outcomes included."""
        rng, n = np.random.default_rng(99), rows.sum()
        self.counts[rows] = rng.integers(0, 100_000, size=(n, GENES))
        self.mutated[rows] = rng.random((n, ALTERED)) < 0.5
        self.copies[rows] = rng.integers(0, 9, size=(n, ALTERED))
        self.age[rows], self.sex[rows] = rng.integers(1000, 2000, n), "noise"
        self.time[rows], self.event[rows] = rng.exponential(5, n), 1
        return self

    def alterations(self, folder):
        mutations, copy_number = [], []
        names = [f"A{k}" for k in range(ALTERED)]
        rest = "".join(f"E{k}\tR{k}\tchr2\t1\t2\t2\n" for k in range(ALTERED))  # keeps the ploidy at 2
        for k, case in enumerate(self.ids):
            lines = [f"{names[j]}\tMissense_Mutation\t{case}-01A\n" for j in np.flatnonzero(self.mutated[k])]
            maf, copies = folder / f"{case}.maf", folder / f"{case}.tsv"
            maf.write_text("Hugo_Symbol\tVariant_Classification\tTumor_Sample_Barcode\n" + "".join(lines))
            rows = "".join(f"E\t{name}\tchr1\t1\t2\t{c}\n" for name, c in zip(names, self.copies[k]))
            copies.write_text("gene_id\tgene_name\tchromosome\tstart\tend\tcopy_number\n" + rows + rest)
            mutations.append((case, maf))
            copy_number.append((case, copies))
        return alteration_matrix(mutations, copy_number, min_frequency=0.25)[0]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    simulate_checkpoint({"layers": 1, "width": 16, "heads": 2}, folder)
    return load_checkpoint(folder)


def joined(cohort, genes):
    """The expression of both sources as one matrix."""
    counts = pd.DataFrame(cohort.counts, index=cohort.ids, columns=genes)
    tpm = (counts.div(counts.sum(axis=1), axis=0) * 1e6).to_numpy(np.float32)
    whole = AnnData(obs=counts[[]], var=pd.DataFrame(index=genes), layers={"counts": counts.to_numpy(), "tpm": tpm})
    return join_cohorts([(name, whole[(cohort.sources == name).to_numpy()]) for name in ("tcga", "ivygap")])


def embeddings(checkpoint, matrix, genes):
    """The cases' vectors from a panel of two thirds of the genes: raw, smoothed, and from z-scores."""
    vectors = {}
    for values in ("tpm", "zscore"):
        profiles, panel = case_profiles(matrix, genes[: 2 * GENES // 3], values)
        vectors[values] = embed_profiles(checkpoint, profiles, panel, {"values": values}, matrix.obs_names)
    vectors["smoothed"] = smooth(initial_weights(16, 17), vectors["tpm"])
    return {name: embedding_table(matrix.obs_names, rows, name) for name, rows in vectors.items()}


def fitted(cohort, number, folder, checkpoint):
    """Everything that is fitted for one split, by name: arrays and lists of names, and the training rows."""
    folder.mkdir()
    genes = sorted(token_of_gene(checkpoint.vocabulary))[:GENES]
    matrix = joined(cohort, genes)
    counts, log_tpm = matrix.to_df("counts"), matrix.to_df("log_tpm")
    splits = pd.concat(pd.DataFrame({"split": k, "case_id": cohort.ids, "part": p}) for k, p in enumerate(cohort.parts))
    given = {"counts": counts, "sources": cohort.sources}
    selections = {name: select_genes(log_tpm, splits, 0.3, **given, **o) for name, o in SELECTIONS.items()}
    alterations, vectors = cohort.alterations(folder), embeddings(checkpoint, matrix, genes)
    cases = pd.DataFrame(
        {"case_id": cohort.ids, "age": cohort.age, "sex": cohort.sex, "time_days": cohort.time, "event": cohort.event}
    )
    tables = {"expression": as_table(matrix), "alterations": alterations, "clinical": cases}
    tables |= {"scgpt": vectors["tpm"], "smoothed": vectors["smoothed"], "zscore": vectors["zscore"]}
    split = load_split(
        cases[["case_id", "time_days", "event"]].assign(label=0),
        splits,
        number,
        {"kind": "survival"},
        INPUTS,
        {name: tables[options.get("from", name)] for name, options in INPUTS.items()},
        selections=selections,
        groups=pd.DataFrame({"gene": genes[::2], "group": "tumour"}),
        sources=cohort.sources,
    )
    found = {"matrix": alterations.columns.to_numpy(str)}
    for name, genes_of in selections.items():
        mine = genes_of[genes_of["split"] == number]
        found |= {f"{name}.{column}": mine[column].to_numpy() for column in ("score", "rank", "selected")}
    for name, scaler in split.scalers.items():
        found |= {f"{name}.names": np.array(scaler.names), f"{name}.train": split.blocks[name][split.part("train")]}
        found |= {f"{name}.{key}": values for key, values in scaler.arrays().items()}
    return found


def changed(before, after):
    assert before.keys() == after.keys()
    return {
        name
        for name, values in before.items()
        if values.shape != after[name].shape
        or values.dtype.kind != after[name].dtype.kind
        # strings are compared as values, because noise may lengthen a name
        or (values.tobytes() != after[name].tobytes() if values.dtype.kind in "fib" else (values != after[name]).any())
    }


@pytest.mark.parametrize("number", [0, 1])
def test_noise_in_the_test_part_changes_nothing_fitted(tmp_path, checkpoint, number):
    pytest.importorskip("skmisc")
    cohort = Cohort()
    before = fitted(cohort, number, tmp_path / "before", checkpoint)
    outside = cohort.parts[number] != "train"  # the validation part is not fitted on either
    after = fitted(cohort.replace(outside), number, tmp_path / "after", checkpoint)
    different = changed(before, after)
    assert len(before) > 100
    # The controls: what is fitted on all cases changes, and so does the table before the filter of the models.
    assert {
        "as_published.score",
        "as_published.selected",
        "as_published_z.names",
        "zscore.train",
        "matrix",
    } <= different
    assert {name for name in different if not name.startswith(LEAKS)} == {"matrix"}


def test_noise_in_a_training_case_changes_what_is_fitted(tmp_path, checkpoint):
    """So the comparison above can fail, for every kind of figure."""
    pytest.importorskip("skmisc")
    cohort = Cohort()
    before = fitted(cohort, 0, tmp_path / "before", checkpoint)
    one = np.arange(CASES) == np.flatnonzero(cohort.parts[0] == "train")[0]
    different = changed(before, fitted(cohort.replace(one), 0, tmp_path / "after", checkpoint))
    kinds = {name.rpartition(".")[2] for name in different}
    assert kinds >= {"score", "rank", "selected", "names", "mean", "sd", "reference", "centre", "loadings", "train"}
    for block in INPUTS:
        assert f"{block}.train" in different
