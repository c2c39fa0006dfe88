"""One row per smoothing of an embedding: how well it tells the proportions of held-out donors' mixtures."""

import json
from pathlib import Path

import pandas as pd

from histofuse.io import start_log, write_table

start_log(snakemake.log[0])
rows = []
for name, path in zip(snakemake.params.smoothings, snakemake.input.scores, strict=True):
    scores = json.loads(Path(path).read_text())
    rows.append({"smoothing": name} | {key: value for key, value in scores.items() if isinstance(value, int | float)})
table = pd.DataFrame(rows)
print(table.to_string(index=False))
write_table(table, snakemake.output.table)
