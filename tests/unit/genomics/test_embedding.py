"""Genes to tokens and cases to profiles: one panel for every cohort, and the same vector whatever the company."""

import json

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scgpt_examples import make_checkpoint

from histofuse.genomics.embedding import case_profiles, embed_profiles, embedding_table, to_tokens, token_of_gene
from histofuse.genomics.scgpt.cache import EmbeddingCache
from histofuse.genomics.scgpt.checkpoint import load_checkpoint
from histofuse.genomics.scgpt.vocabulary import Vocabulary
from histofuse.io import InputError

GENES = ["EGFR", "GFAP", "KMT2A", "OLIG2", "PTPRC", "SOX2", "TP53", "VIM"]


def vocabulary(tmp_path, tokens):
    (tmp_path / "vocab.json").write_text(json.dumps({token: k for k, token in enumerate(tokens)}))
    return Vocabulary.from_file(tmp_path / "vocab.json")


def cohort(cases=6, genes=GENES, seed=0, source=None):
    tpm = np.random.default_rng(seed).gamma(1.0, 50.0, (cases, len(genes))).astype(np.float32)
    obs = pd.DataFrame(index=[f"C-{k}" for k in range(cases)])
    if source is not None:
        obs["source"] = source
    layers = {"tpm": tpm, "log_tpm": np.log2(1 + tpm)}
    return AnnData(obs=obs, var=pd.DataFrame(index=list(genes)), layers=layers)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return load_checkpoint(make_checkpoint(tmp_path_factory.mktemp("scgpt"), symbols=[*GENES[::-1], "OTHER"]))


def test_the_approved_symbol_has_precedence_over_a_former_one(tmp_path):
    found = token_of_gene(vocabulary(tmp_path, ["MLL", "TP53", "KMT2A", "NOT_A_GENE"]))
    assert found == {"KMT2A": 2, "TP53": 1}
    assert token_of_gene(vocabulary(tmp_path, ["MLL", "TP53"])) == {"KMT2A": 0, "TP53": 1}


def test_profiles_have_the_panels_order_and_nothing_for_a_gene_that_is_not_there():
    matrix = cohort()
    profiles, genes = case_profiles(matrix, ["VIM", "AATK", "EGFR", "SOX2", "TP53"], max_missing=0.2)
    assert genes == ["VIM", "AATK", "EGFR", "SOX2", "TP53"]
    np.testing.assert_array_equal(profiles[:, 0], matrix[:, "VIM"].layers["tpm"].ravel())
    assert (profiles[:, 1] == 0).all()


def test_a_cohort_without_forty_percent_of_the_panel_is_refused():
    with pytest.raises(InputError, match=r"2 of the panel's 5 genes \(40%; allowed are 20%\) are missing here: A1BG"):
        case_profiles(cohort(), ["VIM", "A1BG", "AATK", "EGFR", "TP53"])


def test_z_scores_are_those_within_each_source():
    source = np.array(["a", "b"] * 5)
    matrix = cohort(cases=10, source=source)
    profiles, _ = case_profiles(matrix, None, values="zscore")
    for name in "ab":
        log_tpm = matrix.layers["log_tpm"][source == name].astype(float)
        expected = (log_tpm - log_tpm.mean(axis=0)) / log_tpm.std(axis=0)
        np.testing.assert_allclose(profiles[source == name], expected, atol=1e-5)
    assert (profiles < 0).any()
    with pytest.raises(InputError, match="values: 'raw' is neither tpm nor zscore"):
        case_profiles(matrix, None, values="raw")


def test_a_case_has_the_same_vector_in_any_company_and_order_of_genes(checkpoint):
    matrix = cohort()
    names = matrix.obs_names.tolist()
    profiles, genes = case_profiles(matrix, GENES)
    together = embed_profiles(checkpoint, profiles, genes, {}, names)
    np.testing.assert_array_equal(embed_profiles(checkpoint, profiles[2:3], genes, {}, names[2:3])[0], together[2])
    turned, genes = case_profiles(matrix[::-1], GENES[::-1])
    np.testing.assert_array_equal(embed_profiles(checkpoint, turned, genes, {})[::-1], together)


def test_signed_values_are_embedded_only_as_z_scores(checkpoint):
    profiles, genes = case_profiles(cohort(), None, values="zscore")
    with pytest.raises(InputError, match="negative expression"):
        embed_profiles(checkpoint, profiles, genes, {})
    assert np.isfinite(embed_profiles(checkpoint, profiles, genes, {"values": "zscore"})).all()


def test_subsets_are_averaged_into_one_vector_per_case(checkpoint, monkeypatch):
    monkeypatch.setattr("histofuse.genomics.scgpt.tokens.subset_tokens.__defaults__", (0, 5))
    matrix = cohort()
    settings, names = {"subsets": 3, "seed": 1}, matrix.obs_names.tolist()
    profiles, genes = case_profiles(matrix, None)
    tokens, owners = to_tokens(profiles, genes, checkpoint.vocabulary, settings, names)
    assert len(tokens) == 18
    assert owners.tolist() == np.repeat(np.arange(6), 3).tolist()
    embeddings = embed_profiles(checkpoint, profiles, genes, settings, names)
    assert embeddings.shape == (6, 32)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(embed_profiles(checkpoint, profiles[3:], genes, settings, names[3:]), embeddings[3:])


def test_known_profiles_come_from_the_cache(checkpoint, tmp_path, capsys):
    profiles, genes = case_profiles(cohort(), GENES)
    first = embed_profiles(checkpoint, profiles[:4], genes, {}, cache=EmbeddingCache(tmp_path, "digest", "part"))
    both = embed_profiles(checkpoint, profiles, genes, {}, cache=EmbeddingCache(tmp_path, "digest", "part"))
    np.testing.assert_array_equal(both[:4], first)
    assert "4 of 6 embeddings from the cache, 2 to compute" in capsys.readouterr().out


def test_the_table_names_its_columns():
    table = embedding_table(["C-1", "C-2"], np.eye(2), "scgpt")
    assert table.columns.tolist() == ["case_id", "scgpt0", "scgpt1"]
    assert table["scgpt1"].dtype == np.float32
