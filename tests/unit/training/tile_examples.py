"""Packed tile features that tests make for themselves."""

import numpy as np
import pandas as pd

from histofuse.training.tiles import TileStore


def tile_store(folder, features, cases=None, name="tiles", **options):
    """Pack {slide: [tile, width]} as the workflow does; the case of a slide is its own name without `cases`."""
    counts = [len(values) for values in features.values()]
    np.concatenate(list(features.values())).astype("<f2").tofile(folder / f"{name}.f16")
    index = {"slide_id": list(features), "case_id": [cases[slide] if cases else slide for slide in features]}
    index |= {"first_tile": np.cumsum(counts) - counts, "n_tiles": counts}
    pd.DataFrame(index).assign(dim=next(iter(features.values())).shape[1]).to_parquet(folder / f"{name}.parquet")
    return TileStore(folder / f"{name}.f16", folder / f"{name}.parquet", **options)
