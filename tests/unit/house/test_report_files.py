"""The report counts what was set aside of every cohort that is trained or scored on."""

from pathlib import Path

RULES = Path(__file__).parents[3] / "workflow" / "rules" / "common_paper.smk"


def excluded(read, layouts, tables):
    """The report's files of exclusions where `mine` is trained, and `other` scored by models that read some tables.

    Args:
        read: {name: file} of what models read of `other`.
        layouts: {cohort: how its files are laid out}.
        tables: {cohort: which of expression and alterations it comes with}.
    """
    stubs = {
        "config": {"slide_features": {}, "slide_regions": {}},
        "workflow": None,
        "members": lambda cohort: [cohort],
        "layout": layouts.get,
        "tables_had": tables.get,
        "simulated_folder": lambda cohort: [],
        "chooses_genes": lambda cohort: False,
        "embeddings_shown": list,
        "Path": Path,
        "scored_elsewhere": lambda: [("other", "survival")],
        "modalities_scored": lambda cohort, task: {name: f"results/{cohort}/{file}" for name, file in read.items()},
    }
    functions = dict(stubs)
    exec(RULES.read_text(), functions)
    functions |= {"runs_shown": lambda: [("mine", "survival")], "images_shown": lambda section: []}
    return set(functions["report_files"]("excluded"))


ALL = {"expression", "alterations"}
TASKS = {"results/mine/populations/survival_excluded.tsv", "results/other/populations_scored/survival_excluded.tsv"}
CASES = {"results/mine/excluded_cases.tsv", "results/other/excluded_cases.tsv"}
MINE = {f"results/mine/genomics/excluded_{table}.tsv" for table in ALL}


def test_a_cohort_that_is_only_scored_counts_with_what_is_read_of_it():
    layouts, tables = {"mine": "gdc", "other": "gdc"}, {"mine": ALL, "other": ALL}
    slides = excluded({"uni": "slides/uni/index.parquet"}, layouts, tables)
    assert slides == TASKS | CASES | MINE
    genes = {"tumour": "genomics/expression.parquet"}
    assert excluded(genes, layouts, tables) - slides == {"results/other/genomics/excluded_expression.tsv"}
    embedded = {"scgpt": "genomics/embeddings/scgpt/raw.parquet"}
    assert excluded(embedded, layouts, tables) == excluded(genes, layouts, tables)
    called = {"alterations": "genomics/alterations.parquet"}
    assert excluded(called, layouts, tables) - slides == {"results/other/genomics/excluded_alterations.tsv"}


def test_files_of_a_kind_that_a_cohort_does_not_come_with_are_not_counted():
    layouts, tables = {"mine": "gdc", "other": "published_tables"}, {"mine": {"expression"}, "other": ALL}
    found = excluded({"expression": "genomics/expression.parquet"}, layouts, tables)
    assert found == TASKS | CASES | {"results/mine/genomics/excluded_expression.tsv"}
