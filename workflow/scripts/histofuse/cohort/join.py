"""A cohort made of the cases of other cohorts."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from histofuse.io import InputError


def join_cases(members: Sequence[tuple[str, pd.DataFrame]]) -> pd.DataFrame:
    """The case tables of several cohorts as one, with the cohort's name as `source`, sorted by case_id.

    Raises InputError for a case id or a slide id that two cohorts share: it would be the same patient twice.
    """
    joined = pd.concat([frame.assign(source=name) for name, frame in members], ignore_index=True)
    for column, ids in (("case", joined["case_id"]), ("slide", joined["slides"].explode().dropna())):
        twice = ids[ids.duplicated(keep=False)]
        if len(twice):
            value = twice.iloc[0]
            cohorts = joined.loc[twice.index[twice == value], "source"].unique()
            raise InputError(f"{column} {value} is in the cohorts {' and '.join(cohorts)}; cohorts must not overlap")
    return joined.sort_values("case_id", ignore_index=True)
