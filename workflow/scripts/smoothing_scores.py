"""One row per smoothing of an embedding: how well it tells the proportions of held-out donors' mixtures."""

import json
from pathlib import Path

import pandas as pd

from histofuse.io import start_log, write_table

MEASURES = ("mean_absolute_error", "mse_logits", "mse_softmax", "soft_cross_entropy", "accuracy", "balanced_accuracy")

start_log(snakemake.log[0])
rows = []
for name, path in zip(snakemake.params.smoothings, snakemake.input.scores, strict=True):
    scores = json.loads(Path(path).read_text())
    about = {"smoothing": name, "bank": str(scores["bank"]), "passes": str(scores["passes"])}
    rows.append(about | {"pearson": scores["pearson"]} | {measure: scores[measure] for measure in MEASURES})
rows.append({"smoothing": "chance"} | {measure: scores[f"chance_{measure}"] for measure in MEASURES})
table = pd.DataFrame(rows)
print(table.to_string(index=False))
write_table(table, snakemake.output.table)
