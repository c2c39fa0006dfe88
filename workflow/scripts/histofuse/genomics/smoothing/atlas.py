"""A labelled single-cell atlas (.h5ad) as counts of canonical genes, with whole donors held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histofuse.genomics.genes import GeneNames, gene_names, sum_duplicates
from histofuse.io import InputError, read_table

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

LARGEST_LOGARITHM = 20  # log2 of a million; linear expression that never exceeds it does not occur
_LABEL_COLUMNS = ("label", "cell_type", "cell_type_ontology_term_id")
_SYMBOL_COLUMNS = ("feature_name", "gene_name", "gene_symbol")
_ID_COLUMNS = ("gene_id", "gene_ids", "feature_id")
_DRAWS = 200  # of donors, per number of donors held out


@dataclass(frozen=True)
class Atlas:
    """Cells with a class and a donor.

    Args:
        counts: [cell, gene] float32, of the genes that have a canonical symbol.
        genes: canonical symbols, sorted.
        library: [cell] float64, sum over all genes of the file, also those without a canonical symbol.
        labels: [cell] int64, index into `classes`.
        classes: names of the classes, sorted.
        donors: [cell] str, "" where the atlas has none.
        held_out: [cell] bool, cells that only evaluation sees.
        report: what was read and left out; plain numbers, text, lists and dicts.
    """

    counts: csr_matrix
    genes: list[str]
    library: np.ndarray
    labels: np.ndarray
    classes: list[str]
    donors: np.ndarray
    held_out: np.ndarray
    report: dict = field(default_factory=dict)

    def cells(self, part: str) -> np.ndarray:
        """Row numbers of a part, `train` or `held_out`."""
        if part not in ("train", "held_out"):
            raise ValueError(f"part {part!r} is neither train nor held_out")
        return np.flatnonzero(self.held_out if part == "held_out" else ~self.held_out)


def read_atlas(
    path: str | Path,
    label: str = "cell_type",
    donor: str | None = None,
    layer: str | None = None,
    *,
    linear: bool = False,
    held_out: float | Sequence[str] = 0.1,
    classes: str | Path | None = None,
    names: GeneNames | None = None,
    seed: int = 0,
) -> Atlas:
    """Read an .h5ad file.

    Args:
        label, donor: columns of obs. Without a donor column cells are held out instead of donors, so that the
            evaluation sees donors it was trained on; the report says so.
        layer: where the values are: a layer, `raw` for the part of that name, None for X.
        linear: accept values that are linear but no counts (TPM, CPM). Log-scaled ones are always refused.
        held_out: share of the donors (more, where a class would have none), or their names.
        classes: a table with `class` and at least one of `label`, `cell_type`, `cell_type_ontology_term_id`; labels
            that it does not list are left out and counted.
        names: canonical symbols; by default those of `genes.tsv`.
        seed: of the choice of what is held out.

    Only this matrix, obs and var are read; whatever else the file holds is not touched. Symbols come from
    `feature_name` of var where it is there, otherwise from its index; Ensembl ids are used where they are found.
    Columns of one gene are summed. Raises InputError naming the file and the key.
    """
    path = Path(path)
    obs, var, values = _read(path, layer)
    for column in filter(None, (label, donor)):
        if column not in obs:
            raise InputError(f"{path}: obs has no column {column}; it has {', '.join(map(str, obs.columns)) or 'none'}")
    place = f"{path}, {'layer ' + layer if layer else 'X'}"
    values = _check_values(place, values, obs.index, var.index, linear)

    given = obs[label].astype(object).where(obs[label].notna(), None)
    table = None if classes is None else read_classes(classes)
    names_of_cells = given.map(lambda name: None if name is None else str(name) if table is None else table.get(name))
    library = np.asarray(values.sum(axis=1, dtype=np.float64)).ravel()
    labelled = names_of_cells.notna().to_numpy()
    kept = labelled & (library > 0)
    if not kept.any():
        raise InputError(
            f"{path}: no cell is left; {len(obs)} are in the file, "
            f"{labelled.sum()} have a {label} {'that ' + str(classes) + ' lists' if table else ''}"
        )
    found, labels = np.unique(names_of_cells[kept].to_numpy(str), return_inverse=True)
    if len(found) < 2:
        raise InputError(f"{path}: {label} has one class only ({found[0]}); two are needed")
    donors = _donors(path, obs, donor, kept)
    share = _hold_out(path, labels, found, donors if donor else None, held_out, seed)

    symbols, ids = _gene_columns(var)
    try:
        canonical, how = (gene_names() if names is None else names).canonical(symbols, ids)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if all(name is None for name in canonical):
        raise InputError(f"{path}: none of {len(symbols)} genes is known (the first: {', '.join(symbols[:3])})")
    counts, genes = sum_duplicates(values[kept], canonical)
    counts.sort_indices()

    left_out = given[~labelled].map(str).value_counts()
    report = {
        "file": path.name,
        "cells": int(kept.sum()),
        "cells_without_class": {str(name): int(number) for name, number in left_out.items()},
        "empty_cells": int((labelled & ~kept).sum()),
        "genes_in_file": len(symbols),
        "genes": len(genes),
        "genes_found_by": {key: int(number) for key, number in sorted(how.items())},
        "held_out_by": "donors" if donor else "cells: the atlas has no donors",
        "held_out_donors": np.unique(donors[share]).tolist() if donor else [],
        "classes": {
            str(name): {"train": int((~share[labels == k]).sum()), "held_out": int(share[labels == k].sum())}
            for k, name in enumerate(found)
        },
    }
    return Atlas(counts, genes, library[kept], labels.astype(np.int64), found.tolist(), donors, share, report)


def read_classes(path: str | Path) -> dict[str, str]:
    """{label: class} of a table as `read_atlas` takes it. A label of two classes is an InputError."""
    frame = read_table(path, dtype=str, keep_default_na=False)
    columns = [name for name in _LABEL_COLUMNS if name in frame]
    if "class" not in frame or not columns:
        raise InputError(
            f"{path}: the columns are {', '.join(frame)}; needed are class and one of {', '.join(_LABEL_COLUMNS)}"
        )
    classes: dict[str, str] = {}
    for line, row in enumerate(frame.to_dict("records"), start=2):
        if not row["class"]:
            raise InputError(f"{path}: line {line} has no class")
        for label in filter(None, (row[name] for name in columns)):
            if classes.setdefault(label, row["class"]) != row["class"]:
                raise InputError(f"{path}: {label} is both {classes[label]} and {row['class']}")
    return classes


def _read(path: Path, layer: str | None):
    """obs, var and the matrix [cell, gene] of an .h5ad file, and nothing else of it."""
    import h5py
    from anndata.io import read_elem

    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    try:
        with h5py.File(path, "r") as file:
            layers = sorted(file["layers"]) if "layers" in file else []
            if layer is None:
                matrix, genes = "X", "var"
            elif layer == "raw" and "raw" not in layers:
                matrix, genes = "raw/X", "raw/var"
            else:
                matrix, genes = f"layers/{layer}", "var"
            if matrix not in file:
                more = [*layers, *(["raw"] if "raw" in file else [])]
                raise InputError(f"{path}: there is no {matrix}; layers: {', '.join(more) or 'none'}")
            obs, var, values = (read_elem(file[key]) for key in ("obs", genes, matrix))
    except InputError:
        raise
    except Exception as error:  # what h5py and anndata raise on foreign content has no common type
        raise InputError(f"{path}: cannot be read as an .h5ad file ({type(error).__name__}: {error})") from error
    for key, frame in (("obs", obs), (genes, var)):
        if not isinstance(frame, pd.DataFrame):
            raise InputError(f"{path}: {key} is not a table; write the file again with a current anndata")
    if getattr(values, "shape", None) != (len(obs), len(var)):
        raise InputError(
            f"{path}: {matrix} has the shape {getattr(values, 'shape', None)}, "
            f"obs and {genes} have {len(obs)} and {len(var)} rows"
        )
    return obs, var, values


def _check_values(place: str, values, cells: pd.Index, genes: pd.Index, linear: bool) -> csr_matrix:
    """The values as CSR float32, once they are what they should be: finite, not negative, counts or linear."""
    from scipy.sparse import csr_matrix

    if not np.issubdtype(values.dtype, np.number) or np.iscomplexobj(values):
        raise InputError(f"{place}: the values are not numbers ({values.dtype})")
    matrix = csr_matrix(values)
    data = matrix.data
    bad = ~np.isfinite(data) | (data < 0)
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        row = int(np.searchsorted(matrix.indptr, first, side="right")) - 1
        where = f"cell {cells[row]}, gene {genes[matrix.indices[first]]}"
        scaled = "; scaled values are of no use, name the layer with the counts" if data[first] < 0 else ""
        raise InputError(f"{place}: {where}: the value is {data[first]:g}, not a number ≥ 0{scaled}")
    fractions = float(np.mean(data != np.round(data))) if len(data) else 0.0
    if fractions and data.max() < LARGEST_LOGARITHM:
        raise InputError(
            f"{place}: the values look log-transformed ({fractions:.0%} of those above 0 are not whole numbers, the "
            f"largest is {data.max():g}); name the layer with the counts, or undo the logarithm"
        )
    if fractions and not linear:
        raise InputError(
            f"{place}: {fractions:.0%} of the values above 0 are not whole numbers, so they are no counts; name the "
            "layer with the counts, or set `linear: true` if they are linear (TPM, CPM)"
        )
    return matrix.astype(np.float32)


def _donors(path: Path, obs: pd.DataFrame, donor: str | None, kept: np.ndarray) -> np.ndarray:
    if donor is None:
        return np.full(kept.sum(), "", dtype=str)
    column = obs.loc[kept, donor]
    if column.isna().any():
        raise InputError(
            f"{path}: {column.isna().sum()} cells have no {donor}, the first is {column.index[column.isna()][0]}"
        )
    return column.astype(str).to_numpy(str)


def _hold_out(
    path: Path,
    labels: np.ndarray,
    classes: np.ndarray,
    donors: np.ndarray | None,
    wanted: float | Sequence[str],
    seed: int,
) -> np.ndarray:
    """[cell] bool: what only evaluation sees; every class has cells on both sides."""
    by_name = not isinstance(wanted, int | float)
    if not by_name and not 0 < wanted < 1:
        raise InputError(f"held_out is {wanted}; give a share between 0 and 1, or names of donors")
    if donors is None:
        if by_name:
            raise InputError(f"{path}: held_out names donors, but no column of donors is given")
        held_out = _draw_cells(labels, len(classes), wanted, seed)
    elif by_name:
        strange = sorted(set(map(str, wanted)) - set(donors))
        if strange:
            raise InputError(f"{path}: held_out names {', '.join(strange)}, but no cell is of such a donor")
        held_out = np.isin(donors, [str(name) for name in wanted])
    else:
        held_out = _draw_donors(path, labels, classes, donors, wanted, seed)
    for k, name in enumerate(classes):
        both = held_out[labels == k]
        if both.all() or not both.any():
            raise InputError(
                f"{path}: class {name} has {(~both).sum()} cells for training and {both.sum()} held out; "
                "both are needed: hold out other donors, or leave the class out"
            )
    return held_out


def _draw_cells(labels: np.ndarray, classes: int, share: float, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    held_out = np.zeros(len(labels), bool)
    for k in range(classes):
        cells = random.permutation(np.flatnonzero(labels == k))
        held_out[cells[: max(1, round(share * len(cells)))]] = True
    return held_out


def _draw_donors(
    path: Path, labels: np.ndarray, classes: np.ndarray, donors: np.ndarray, share: float, seed: int
) -> np.ndarray:
    """The first draw of donors that leaves every class on both sides, of as few donors as the share allows."""
    names, of_cell = np.unique(donors, return_inverse=True)
    has = np.zeros((len(names), len(classes)), bool)
    has[of_cell, labels] = True
    if (has.sum(axis=0) < 2).any():
        few = classes[has.sum(axis=0) < 2]
        raise InputError(
            f"{path}: {', '.join(few[:5])}{' and more' if len(few) > 5 else ''}: cells of one donor only, so none can "
            "be held out; leave the class out (`classes`), or hold out cells (`donor: null`)"
        )
    random = np.random.default_rng(seed)
    for number in range(max(1, round(share * len(names))), len(names)):
        for _ in range(_DRAWS):
            drawn = np.zeros(len(names), bool)
            drawn[random.choice(len(names), number, replace=False)] = True
            if has[drawn].any(axis=0).all() and has[~drawn].any(axis=0).all():
                return drawn[of_cell]
    raise InputError(f"{path}: no draw of donors leaves every class on both sides; name the donors in held_out")


def _gene_columns(var: pd.DataFrame) -> tuple[list[str], list[str] | None]:
    """Symbols, and Ensembl ids where there are some."""
    index = var.index.astype(str)
    symbols = next((var[name].astype(str) for name in _SYMBOL_COLUMNS if name in var), index)
    ids = next((var[name].astype(str) for name in _ID_COLUMNS if name in var), None)
    if ids is None and len(index) and index.str.startswith("ENSG").mean() > 0.5:
        ids = index
    return list(symbols), None if ids is None else list(ids)
