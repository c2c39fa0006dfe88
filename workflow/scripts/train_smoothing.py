"""Train MLP-A, or a control of it, on embedded cells, and score it on those of held-out donors."""

import json

import numpy as np
import pandas as pd
from safetensors.numpy import save_file

from histofuse.genomics.smoothing.mlp import fit, held_out_scores, initial_weights
from histofuse.io import atomic, start_log, write_json, write_table

start_log(snakemake.log[0])
settings = snakemake.params.settings
loss, seed = settings.get("loss", "mse_logits"), settings.get("seed", 0)


def read(path):
    with np.load(path, allow_pickle=False) as file:
        return file["embeddings"], file["targets"], file["classes"].tolist()


embeddings, targets, classes = read(snakemake.input.bank)
passes = settings.get("passes", 1) if settings.get("trained", True) else 0
if passes:
    weights, history = fit(
        embeddings,
        targets,
        loss=loss,
        passes=passes,
        lr=settings.get("lr", 1e-3),
        batch_size=settings.get("batch_size", 32),
        seed=seed,
        threads=snakemake.threads,
        standardise=settings.get("standardise", False),
        mix_embeddings=settings.get("mix") == "embeddings",
    )
else:
    weights = initial_weights(embeddings.shape[1], targets.shape[1], seed)
    history = pd.DataFrame(columns=["step", "mixtures", "lr", "loss"], dtype=float)
mixed, single = read(snakemake.input.mixed)[:2], read(snakemake.input.single)[:2]
scores = held_out_scores(weights, mixed, single, targets, loss=loss)
scores |= {"classes": classes, "bank": len(embeddings), "passes": passes}
print({key: value for key, value in scores.items() if key != "confusion"})
with atomic(snakemake.output.weights) as temporary:
    save_file(weights, temporary, metadata={"settings": json.dumps(settings), "classes": json.dumps(classes)})
write_table(history, snakemake.output.history)
write_json(scores, snakemake.output.scores)
