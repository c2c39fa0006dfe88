"""A split as arrays: who is in it, what is missing, bags and their repeats."""

import numpy as np
import pandas as pd
import pytest

from histofuse.io import InputError
from histofuse.training.dataset import Target, load_split, read_columns
from histofuse.training.tiles import TileStore

SURVIVAL = {"kind": "survival"}
GRADE = {"kind": "classification", "classes": {"2": [2], "3": [3]}}


@pytest.fixture
def cohort():
    ids = [f"C{k}" for k in range(8)]
    population = pd.DataFrame(
        {"case_id": ids, "time_days": np.arange(1.0, 9), "event": pd.array([1, 0] * 4, "Int8"), "label": [0, 1] * 4}
    )
    splits = pd.DataFrame({"split": 0, "case_id": ids, "part": ["train"] * 5 + ["val"] + ["test"] * 2})
    genes = pd.DataFrame({"case_id": ids[::-1], "A": np.arange(8.0), "B": np.arange(8.0) ** 2})
    return population, splits, {"expression": genes}


def make_store(folder, n_tiles, width=4, bag=None):
    """A packed map with these tiles per slide; case of slide k is Ck. Values are slide + tile / 100."""
    rows, first = [], 0
    values = []
    for k, n in enumerate(n_tiles):
        slide, case = (k, k) if isinstance(n, int) else (k, n[1])
        n = n if isinstance(n, int) else n[0]
        rows.append({"slide_id": f"S{slide}", "case_id": f"C{case}", "first_tile": first, "n_tiles": n, "dim": width})
        values.append(np.full((n, width), k) + np.arange(n)[:, None] / 100)
        first += n
    np.concatenate(values).astype("<f2").tofile(folder / "tiles.f16")
    pd.DataFrame(rows).to_parquet(folder / "index.parquet")
    return TileStore(folder / "tiles.f16", folder / "index.parquet", bag=bag)


def test_rows_targets_and_blocks_line_up(cohort):
    split = load_split(cohort[0], cohort[1], 0, SURVIVAL, {"expression": {}}, cohort[2])
    assert split.shapes == {"expression": (2,)}
    assert split.part("test").tolist() == [6, 7]
    raw = 7 - np.arange(8.0)  # the table is in reverse order
    train = raw[:5]
    np.testing.assert_allclose(split.blocks["expression"][:, 0], (raw - train.mean()) / train.std(), rtol=1e-6)
    np.testing.assert_array_equal(split.target.time, cohort[0]["time_days"])


def test_scaling_never_sees_the_test_part(cohort):
    population, splits, tables = cohort
    before = load_split(population, splits, 0, SURVIVAL, {"expression": {}}, tables).blocks["expression"]
    changed = tables["expression"].assign(
        A=tables["expression"]["A"].where(tables["expression"]["case_id"] < "C6", 1e6)
    )
    after = load_split(population, splits, 0, SURVIVAL, {"expression": {}}, {"expression": changed}).blocks[
        "expression"
    ]
    np.testing.assert_array_equal(before[:6], after[:6])
    assert (before[6:] != after[6:]).any()


def test_cases_outside_the_population_are_left_out(cohort):
    population, splits, tables = cohort
    split = load_split(population[population["case_id"] != "C6"], splits, 0, SURVIVAL, {"expression": {}}, tables)
    assert split.rows["case_id"].tolist() == ["C0", "C1", "C2", "C3", "C4", "C5", "C7"]


def test_a_training_part_too_small_for_the_alterations_table_is_said_so(cohort, capsys):
    population, splits, tables = cohort
    block = {"expression": {"min_frequency": 0.1}}
    load_split(population, splits, 0, SURVIVAL, block, tables)
    assert "less than half" not in capsys.readouterr().out
    wide = pd.concat([tables["expression"], tables["expression"].assign(case_id=[f"D{k}" for k in range(8)])])
    load_split(population, splits, 0, SURVIVAL, block, {"expression": wide})
    assert "5 training cases are less than half of the 16 cases" in capsys.readouterr().out


def test_a_training_part_without_deaths_is_refused(cohort):
    population = cohort[0].assign(event=pd.array([0] * 8, "Int8"))
    with pytest.raises(InputError, match="split 0: all 5 training cases are censored"):
        load_split(population, cohort[1], 0, SURVIVAL, {"expression": {}}, cohort[2])


def test_a_training_part_of_one_class_is_refused(cohort):
    with pytest.raises(InputError, match="split 0: all training cases have one class"):
        load_split(cohort[0].assign(label=1), cohort[1], 0, GRADE, {"expression": {}}, cohort[2])


def test_an_empty_part_is_named(cohort):
    with pytest.raises(InputError, match="split 3: no case of the task in part 'train'"):
        load_split(cohort[0], cohort[1], 3, SURVIVAL, {"expression": {}}, cohort[2])


def test_a_case_without_a_modality_is_named(cohort):
    tables = {"expression": cohort[2]["expression"].query("case_id != 'C2'")}
    with pytest.raises(InputError, match=r"1 cases of the task have no expression \(e\.g\. C2\)"):
        load_split(cohort[0], cohort[1], 0, SURVIVAL, {"expression": {}}, tables)


def test_a_case_with_two_slides_has_two_rows(cohort, tmp_path):
    store = make_store(tmp_path, [1, 2, 3, 1, 1, 2, 1, 1, (2, 0)])
    split = load_split(cohort[0], cohort[1], 0, SURVIVAL, {"tiles": {"standardise": True}}, {}, bags={"tiles": store})
    assert split.rows["case_id"].tolist().count("C0") == 2
    assert split.target.time[split.rows["case_id"] == "C0"].tolist() == [1, 1]
    train = np.concatenate([store.features(f"S{k}").astype(float) for k in (0, 1, 2, 3, 4, 8)])
    np.testing.assert_allclose(split.bag_scales["tiles"][0], train.mean(0), rtol=1e-6)
    np.testing.assert_allclose(split.bag_scales["tiles"][1], train.std(0), rtol=1e-6)


@pytest.mark.parametrize(("n", "bag"), [(3, 8), (4, 8), (8, 8), (1, 5)])
def test_counts_are_those_of_the_repeat_rule(tmp_path, n, bag):
    """The whole sequence floor(bag/n) times and its first bag mod n entries once more."""
    repeated = np.concatenate([np.tile(np.arange(n), bag // n), np.arange(bag % n)])
    store = make_store(tmp_path, [n], bag=bag)
    np.testing.assert_array_equal(store.count("S0"), np.bincount(repeated, minlength=n))


@pytest.mark.parametrize(
    ("order", "expected"),
    # Tiles 0 and 1 lie in the upper row, 2 and 3 below: copies are next to each other, or come after the last tile.
    [("raster", [0, 1, 2, 3] * 4), ("spatial", [0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3, 2, 2, 3, 3])],
)
def test_a_bag_is_laid_out_in_full(tmp_path, order, expected):
    make_store(tmp_path, [2, 4])
    np.array([[0, 0], [9, 0], *[[x, y] for y in (0, 9) for x in (0, 9)]], "<i4").tofile(tmp_path / "coords.i32")
    store = TileStore(*(tmp_path / name for name in ("tiles.f16", "index.parquet", "coords.i32")), 16, order)
    assert store.given("S1")[store.place("S1")].tolist() == expected
    np.testing.assert_array_equal(store.features("S1"), store.tiles[2:])
    assert store.count("S1").tolist() == [4] * 4
    np.testing.assert_allclose(store.moments(["S1"])[0], store.tiles[2:].astype(float).mean(axis=0))


def test_a_map_of_a_large_slide_gives_only_the_tiles_that_stand_on_it(tmp_path):
    make_store(tmp_path, [3, 10])
    store = TileStore(tmp_path / "tiles.f16", tmp_path / "index.parquet", bag=4, order="raster")
    assert store.given("S1").tolist() == [0, 2, 5, 8]  # round(j · 10/4), halves to even
    assert store.place("S1").tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(store.features("S1"), store.tiles[[3, 5, 8, 11]])
    assert store.place("S0").tolist() == [0, 1, 2, 0]
    assert store.count("S0").tolist() == [2, 1, 1]


def test_a_map_needs_a_size(tmp_path):
    make_store(tmp_path, [3])
    with pytest.raises(InputError, match="order: raster needs the size of the map; give `bag`"):
        TileStore(tmp_path / "tiles.f16", tmp_path / "index.parquet", order="raster")


def test_a_map_needs_places(tmp_path):
    make_store(tmp_path, [2])
    np.full((2, 2), -1, "<i4").tofile(tmp_path / "coords.i32")
    with pytest.raises(InputError, match=r"coords\.i32: some tiles have no place .*use order: raster"):
        TileStore(*(tmp_path / name for name in ("tiles.f16", "index.parquet", "coords.i32")), 16, "spatial")


def test_a_map_that_does_not_fit_its_index_is_refused(tmp_path):
    make_store(tmp_path, [3, 2])
    (tmp_path / "tiles.f16").write_bytes(b"\0" * 10)
    with pytest.raises(InputError, match=r"tiles\.f16: does not hold the 5 × 4 values"):
        TileStore(tmp_path / "tiles.f16", tmp_path / "index.parquet")


def test_target_take():
    target = Target("classification", np.arange(3.0), np.zeros(3, int), np.array([2, 0, 1]), 3)
    assert target.take(np.array([2, 0])).label.tolist() == [1, 2]


def test_the_outcome_never_reaches_a_model(cohort):
    """The case table holds times and events: a clinical block takes nothing but what may be known of a case."""
    population, splits, _ = cohort
    cases = population[["case_id", "time_days", "event"]].assign(age=np.arange(8.0), slides=[["a"]] * 8)
    split = load_split(population, splits, 0, SURVIVAL, {"clinical": {}}, {"clinical": cases})
    assert split.scalers["clinical"].names == ["age"]
    with pytest.raises(InputError, match="no column event; there are age"):
        load_split(population, splits, 0, SURVIVAL, {"clinical": {"columns": ["event"]}}, {"clinical": cases})


@pytest.fixture
def genes(cohort):
    """The cohort with four genes, a selection that differs between splits, and two groups."""
    population, splits, _ = cohort
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(8, 4)), columns=list("ABCD"))
    table.insert(0, "case_id", population["case_id"])
    chosen = {0: "DBA", 1: "C"}
    selection = pd.DataFrame(
        [{"split": split, "gene": gene, "selected": gene in chosen[split]} for split in (0, 1) for gene in "ABCD"]
    )
    groups = pd.DataFrame({"gene": list("DACB"), "group": ["tumour", "tumour", "tumour", "immune"]})
    splits = pd.concat([splits, splits.assign(split=1)])
    return {
        "population": population,
        "splits": splits,
        "task": SURVIVAL,
        "selections": {"hvg": selection},
        "groups": groups,
        "table": table,
    }


def names_of(genes, split=0, **inputs):
    tables = {name: genes["table"] for name in inputs}
    arguments = {key: value for key, value in genes.items() if key != "table"}
    result = load_split(**arguments, split=split, inputs=inputs, tables=tables)
    return {name: scaler.names for name, scaler in result.scalers.items()}


def test_a_block_takes_the_genes_of_its_selection_and_groups(genes):
    names = names_of(
        genes,
        expression={"selection": "hvg"},
        tumour={"from": "expression", "selection": "hvg", "group": ["tumour"]},
        both={"from": "expression", "group": ["immune", "tumour"]},
        whole={"from": "expression", "embedding": "x", "smoothing": "y"},
    )
    everything = list("ABCD")
    assert names == {"expression": list("ABD"), "tumour": list("AD"), "both": everything, "whole": everything}
    assert names_of(genes, split=1, expression={"selection": "hvg"}) == {"expression": ["C"]}


def test_fixed_columns_are_narrowed_by_a_selection(genes):
    assert names_of(genes, expression={"selection": "hvg", "columns": ["D", "C", "A"]}) == {"expression": ["D", "A"]}
    with pytest.raises(InputError, match="inputs: expression: columns: no column X; there are"):
        names_of(genes, expression={"selection": "hvg", "columns": ["D", "X"]})


def test_groups_of_alterations_go_by_their_gene(genes):
    genes["table"] = genes["table"].set_axis(["case_id", "A_mut", "B_mut", "A_cnv", "E_cnv"], axis=1)
    assert names_of(genes, alterations={"group": ["tumour"]}) == {"alterations": ["A_mut", "A_cnv"]}


def test_a_group_without_a_gene_in_the_cohort_leaves_the_others(genes, capsys):
    expected = names_of(genes, expression={"group": ["tumour"]})
    assert names_of(genes, expression={"group": ["tumour", "brain"]}) == expected
    assert "inputs: expression: the cohort has no gene of group brain" in capsys.readouterr().out


def test_a_block_without_a_column_says_what_each_filter_left(genes):
    message = (
        "inputs: immune: no column is left in split 1: the table has 4 columns, 1 of them are of selection hvg, "
        "0 of these are of group immune"
    )
    with pytest.raises(InputError, match=message):
        names_of(genes, split=1, immune={"from": "expression", "selection": "hvg", "group": ["immune"]})
    with pytest.raises(InputError, match="inputs: expression: group: no group brain; there are immune, tumour"):
        names_of(genes, expression={"group": ["brain"]})
    genes["groups"] = None
    with pytest.raises(InputError, match="inputs: expression: group: the gene groups of the cohort are not there"):
        names_of(genes, expression={"group": ["tumour"]})


def test_the_outcome_stays_out_under_any_name(cohort):
    population, splits, _ = cohort
    cases = population[["case_id", "time_days", "event"]].assign(age=np.arange(8.0))
    inputs = {"who": {"from": "clinical"}}
    split = load_split(population, splits, 0, SURVIVAL, inputs, {"who": cases})
    assert split.scalers["who"].names == ["age"]


@pytest.mark.parametrize(
    ("predicted", "column", "message"),
    [
        ("grade", "grade", "grade is what the task predicts"),
        ("grade", "diagnosis", "diagnosis tells grade, which is what the task predicts"),
        ("diagnosis", "diagnosis", "diagnosis is what the task predicts"),
        *(("diagnosis", key, f"{key} tells diagnosis, which is") for key in ("idh", "codel_1p19q", "grade")),
        ("idh", "diagnosis", "diagnosis tells idh, which is"),
        ("codel_1p19q", "diagnosis", "diagnosis tells codel_1p19q, which is"),
        ("sex", "sex", "sex is what the task predicts"),
    ],
)
def test_the_class_to_predict_is_no_input(cohort, predicted, column, message):
    """Neither by its own name nor by that of a column that tells it; other columns and other tasks are free."""
    population, splits, _ = cohort
    cases = population[["case_id"]].assign(age=np.arange(8.0), **{column: ["a", "b"] * 4})
    task = GRADE | {"column": predicted}
    for inputs in ({"clinical": {"columns": ["age", column]}}, {"who": {"from": "clinical"}}):
        with pytest.raises(InputError, match=f"inputs: {next(iter(inputs))}: columns: {message}"):
            load_split(population, splits, 0, task, inputs, dict.fromkeys(inputs, cases))
    without, whole = {"clinical": {"columns": ["age"]}}, {"clinical": {"columns": ["age", column]}}
    load_split(population, splits, 0, task, without, {"clinical": cases})
    load_split(population, splits, 0, SURVIVAL | {"column": predicted}, whole, {"clinical": cases})


def test_a_gene_may_be_called_as_the_class_is(cohort):
    table = cohort[2]["expression"].rename(columns={"A": "grade"})
    split = load_split(cohort[0], cohort[1], 0, GRADE | {"column": "grade"}, {"expression": {}}, {"expression": table})
    assert split.scalers["expression"].names == ["grade", "B"]


def test_blocks_are_scaled_by_source(cohort):
    ids = [f"C{k:02}" for k in range(40)]
    population = pd.DataFrame({"case_id": ids, "time_days": 1.0, "event": 1, "label": 0})
    splits = pd.DataFrame({"split": 0, "case_id": ids, "part": ["train"] * 30 + ["test"] * 10})
    sources = pd.Series(["tcga", "ivygap"] * 20, index=ids)[::-1]
    values = np.arange(40.0) + (np.arange(40) % 2) * 1000
    table = pd.DataFrame({"case_id": ids, "A": values})
    inputs = {"expression": {"per_source": True}}
    split = load_split(population, splits, 0, SURVIVAL, inputs, {"expression": table}, sources=sources)
    train = values[:30:2]
    np.testing.assert_allclose(
        split.blocks["expression"][::2, 0], (values[::2] - train.mean()) / train.std(), rtol=1e-5, atol=1e-6
    )
    with pytest.raises(InputError, match="inputs: expression: per_source: nothing says"):
        load_split(population, splits, 0, SURVIVAL, inputs, {"expression": table})


def test_columns_from_a_file(tmp_path):
    path = tmp_path / "features.txt"
    path.write_text("# the first ones\nIDH1_mut\n\n  EGFR_cnv   # amplified\nNA_mut\nNA\n", encoding="utf-8")
    assert read_columns(path) == ["IDH1_mut", "EGFR_cnv", "NA_mut", "NA"]
    path.write_bytes(b"\xef\xbb\xbfIDH1_mut\r\nTP53_mut\r\n")
    assert read_columns(path) == ["IDH1_mut", "TP53_mut"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "there is no column in it; write one per line"),
        (b"# nothing\n\n", "there is no column in it; write one per line"),
        (b"A_mut\nB_mut\nA_mut\n", "A_mut is there twice"),
        (b"\xff\xfe\x00A", "cannot be read as a table"),
        (None, "cannot be read as a table"),
    ],
)
def test_bad_lists_of_columns_are_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "features.txt").write_bytes(content)
    with pytest.raises(InputError, match=rf"features\.txt: {message}"):
        read_columns(tmp_path / "features.txt")
