"""Who is trained on and who is scored: splits by case, drawn from a seed of their own, or published."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

import numpy as np
import pandas as pd

from histofuse.io import InputError, read_table

PARTS = ("train", "val", "test")
SMALLEST_STRATUM = 10  # rarer combinations of event, source and diagnosis are drawn from together


def draw(cases: pd.DataFrame, protocol: Mapping) -> pd.DataFrame:
    """Draw the splits of a protocol; the same cases and protocol always give the same splits.

    `protocol`: `kind` mccv (repeated random test parts), holdout (one or more train/val/test cuts) or kfold
    (each case tested once); `n_splits` (folds of a kfold); `test` (share; not for kfold); `val` (share of all
    cases, 0 by default); `seed`; `stratify` (true by default): keep the proportions of event × diagnosis, and of the
    sources of a cohort that has several, in every part.

    The order in which cases are drawn comes from a hash of seed, split and case id, so it depends neither on the
    order of the table nor on the version of a random number generator. Cases without a follow-up (no event) take part
    in classifications alone. They are drawn in the same way, but apart, so that they move no other case.

    Returns a frame `split, case_id, part`. Raises InputError through `check_splits` for an impossible
    protocol.
    """
    kind, seed = protocol["kind"], int(protocol["seed"])
    if kind not in {"mccv", "holdout", "kfold"}:
        raise InputError(f"unknown kind of protocol {kind!r}; mccv, holdout, kfold or given")
    n_splits = int(protocol.get("n_splits", 1))
    followed = cases["event"].notna()
    if kind == "kfold" and not 2 <= n_splits <= followed.sum():
        raise InputError(f"a kfold protocol needs 2 to {followed.sum()} n_splits (folds), not {n_splits}")
    test = 1 / n_splits if kind == "kfold" else float(protocol["test"])
    val = float(protocol.get("val", 0))
    if not (0 < test < 1 and val >= 0 and test + val < 1):
        raise InputError(f"test share {test:g} and val share {val:g} leave nothing to train on")
    frames = []
    for group in (cases[followed], cases[~followed]):
        strata = strata_of(group) if protocol.get("stratify", True) else pd.Series("all", group.index)
        ids, stratum = group["case_id"].to_numpy(str), strata.to_numpy(str)
        for split in range(n_splits if len(ids) else 0):
            key = f"{seed}" if kind == "kfold" else f"{seed}/{split}"  # folds of one kfold share one order
            order = np.lexsort(([_hash(key, case) for case in ids], stratum))
            fold = np.arange(len(ids)) % n_splits == split
            tested = fold if kind == "kfold" else _spread(len(ids), test, key)
            part = _parts(ids[order], stratum[order], tested, val, key, f"val/{key}/{split}")
            frames.append(pd.DataFrame({"split": split, "case_id": ids[order], "part": part}))
    splits = pd.concat(frames).sort_values(["split", "case_id"], ignore_index=True)
    check_splits(splits, cases)
    return splits


def _parts(ids: np.ndarray, stratum: np.ndarray, tested: np.ndarray, val: float, key: str, val_key: str) -> np.ndarray:
    """The part of each case of one split, in the order given, of which `tested` are the test part."""
    part = np.where(tested, "test", "train").astype(object)
    rest = np.flatnonzero(~tested)
    if len(rest):
        # The share is one of all cases, the rest is smaller; a different order keeps val apart from test's
        # neighbours.
        rest = rest[np.lexsort(([_hash(val_key, case) for case in ids[rest]], stratum[rest]))]
        part[rest[_spread(len(rest), min(1, val * len(ids) / len(rest)), key)]] = "val"
    return part


def inner(splits: pd.DataFrame, cases: pd.DataFrame, share: float, seed: int) -> pd.DataFrame:
    """The training data of each split cut in two, for choices that no test case may have a say in.

    Args:
        splits: `split, case_id, part`. cases: `case_id, event, diagnosis` of those that take part; where what is to be
            predicted is a class, that in place of the diagnosis.
        share: of the training cases that becomes the validation part, drawn like the parts of `draw`; a split that has
            a validation part of its own keeps it. seed: of the order in which they are drawn.
    Returns a frame `split, case_id, part` of "train" and "val" without test cases. Raises InputError naming the split
    when a part is left empty.
    """
    strata = strata_of(cases).set_axis(cases["case_id"])
    frames = []
    for split, rows in splits[splits["case_id"].isin(strata.index)].groupby("split"):
        rows = rows[rows["part"] != "test"]
        if not (rows["part"] == "val").any():
            ids, key = rows["case_id"].to_numpy(str), f"inner/{seed}/{split}"
            ids = ids[np.lexsort(([_hash(key, case) for case in ids], strata[ids].to_numpy(str)))]
            part = np.where(_spread(len(ids), share, key), "val", "train")
            rows = pd.DataFrame({"split": split, "case_id": ids, "part": part})
        if set(rows["part"]) != {"train", "val"}:
            raise InputError(
                f"split {split}: {len(rows)} training cases cannot be cut in two with a share of {share:g}"
            )
        frames.append(rows[["split", "case_id", "part"]])
    return pd.concat(frames).sort_values(["split", "case_id"], ignore_index=True)


def strata_of(cases: pd.DataFrame) -> pd.Series:
    """Event × diagnosis of each case; combinations of fewer than SMALLEST_STRATUM cases join by event.

    Cases without a follow-up, whose event is missing, are strata of their own.
    Where the cases are of several sources (column `source`, if there is one), event × source × diagnosis: cohorts
    differ in class and outcome, and a part with too few of one of them would be judged on other patients. Those of
    fewer than SMALLEST_STRATUM cases join by event and source, and what is rare even then by event.
    """
    event = cases["event"].astype(str)
    source = cases["source"].astype("string").fillna("unknown") if "source" in cases else pd.Series("", cases.index)
    within = [event, event + "/" + source] if source.nunique() > 1 else [event]
    strata = within[-1] + "/" + cases["diagnosis"].astype("string").fillna("unknown")
    for wider in reversed(within):
        rare = strata.map(strata.value_counts()) < SMALLEST_STRATUM
        strata = strata.where(~rare, wider + "/rare")
    return strata.astype(str)


def _hash(key: str, case_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{key}/{case_id}".encode(), digest_size=8).digest(), "big")


def _spread(n: int, share: float, key: str) -> np.ndarray:
    """Mark round(share·n) of n places, evenly spread: of cases ordered by stratum, each gives its share (±1).

    The pattern starts at a place that depends on `key`, or a small first stratum would never be marked.
    """
    marked = round(share * n)
    steps = np.arange(n + 1) * marked // n
    return np.roll(np.diff(steps).astype(bool), _hash(key, "start") % n)


def given_files(receipt: pd.DataFrame, name: str) -> list[str]:
    """The fetched files of a published protocol in the order of its splits (file_id is "<name>/<split>")."""
    files = receipt[(receipt["kind"] == "splits") & receipt["file_id"].str.match(rf"{re.escape(name)}/\d+$")]
    numbers = files["file_id"].str.rpartition("/")[2].astype(int)
    return files["path"].loc[numbers.sort_values().index].tolist()


def read_given(files: Sequence[str | Path], set_aside: Set[str] = frozenset()) -> pd.DataFrame:
    """Read published splits: one CSV per split with the columns `train` and `val` (and perhaps `test`) of
    case ids.

    Without a `test` column, or with an empty one, the published "val" part is the scored one and becomes
    `test`. Cases in `set_aside`, which the case table does not have, are left out. Returns a frame `split,
    case_id, part`.
    """
    frames = []
    for split, path in enumerate(files):
        table = read_table(path, dtype=str)
        if not {"train", "val"} <= set(table):
            raise InputError(f"{path}: a split file needs the columns train and val; it has {', '.join(table)}")
        three = "test" in table and table["test"].notna().any()
        names = {"train": "train", "val": "val", "test": "test"} if three else {"train": "train", "val": "test"}
        for column, part in names.items():
            ids = table[column].dropna()
            ids = ids[~ids.isin(set_aside)]
            frames.append(pd.DataFrame({"split": split, "case_id": ids, "part": part}))
    if not frames:
        raise InputError("the protocol is `given`, but the cohort has no split files for it")
    return pd.concat(frames).sort_values(["split", "case_id"], ignore_index=True)


def check_splits(splits: pd.DataFrame, cases: pd.DataFrame) -> None:
    """Refuse splits that leak or cannot be scored.

    Raises InputError naming split and case for a case in two parts or twice, one that the cohort does not
    have, a train or test part that is empty or in which nobody died.
    """
    unknown = splits[~splits["case_id"].isin(set(cases["case_id"]))]
    if len(unknown):
        first = unknown.iloc[0]
        raise InputError(f"split {first['split']}: case {first['case_id']} is not in the case table")
    wrong = splits[~splits["part"].isin(PARTS)]
    if len(wrong):
        raise InputError(f"split {wrong.iloc[0]['split']}: unknown part {wrong.iloc[0]['part']!r}; {', '.join(PARTS)}")
    twice = splits[splits.duplicated(["split", "case_id"], keep=False)]
    if len(twice):
        split, case = twice.iloc[0][["split", "case_id"]]
        parts = twice.loc[(twice["split"] == split) & (twice["case_id"] == case), "part"]
        raise InputError(f"split {split}: case {case} is there more than once ({', '.join(parts)})")
    events = splits["case_id"].map(cases.set_index("case_id")["event"].fillna(0).astype(int))
    for split, rows in splits.groupby("split"):
        for part in ("train", "test"):
            inside = rows["part"] == part
            if not inside.any():
                raise InputError(f"split {split}: the {part} part is empty")
            if not events[rows.index][inside].any():
                raise InputError(
                    f"split {split}: all {inside.sum()} cases of the {part} part are censored or not followed up; "
                    "take fewer splits, a larger part, or stratify"
                )
