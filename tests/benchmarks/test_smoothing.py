"""What smoothing is for, on simulated cells and an untrained checkpoint: the shares of cell types in mixtures.

Five atlases and checkpoints from five seeds. MLP-A trained on mixtures of cells is compared with the same network
trained on single cells, on mixtures of the cells of held-out donors, and by how straight walks between two types are.
"""

import numpy as np
from scipy.stats import t

from histofuse.genomics.embedding import embed_profiles, token_of_gene
from histofuse.genomics.scgpt.checkpoint import load_checkpoint
from histofuse.genomics.smoothing.atlas import read_atlas
from histofuse.genomics.smoothing.interpolation import paths, straightness
from histofuse.genomics.smoothing.mixup import draw_mixes, mixed_profiles
from histofuse.genomics.smoothing.mlp import fit, held_out_scores, smooth
from histofuse.genomics.smoothing.panel import choose_panel
from histofuse.sources.simulated.atlas import simulate_atlas
from histofuse.sources.simulated.checkpoint import simulate_checkpoint

SEEDS = range(5)
PAIRS = [("neuron", "macrophage"), ("astrocyte", "T cell"), ("oligodendrocyte", "endothelial cell")]


def compare(seed, folder):
    """{training: (mean squared error of the shares, Pearson's r, deviation of walks)} and that of the embedding."""
    simulate_atlas({"cells_per_type": 300, "donors": 10, "genes": 600, "seed": seed}, folder / "cells.h5ad")
    simulate_checkpoint({"layers": 3, "width": 64, "heads": 4, "seed": seed}, folder / "checkpoint")
    atlas = read_atlas(folder / "cells.h5ad", donor="donor_id", held_out=0.2)
    checkpoint = load_checkpoint(folder / "checkpoint")
    panel = choose_panel(atlas, token_of_gene(checkpoint.vocabulary), size=400)["gene"].tolist()

    def embed(mixes):
        return embed_profiles(checkpoint, mixed_profiles(atlas, mixes, panel), panel, {})

    def bank(n, part, mixing):
        mixes = draw_mixes(atlas, n, part, seed=seed, mixing=mixing)
        return embed(mixes), mixes.target

    mixed, single = bank(2000, "held_out", True), bank(2000, "held_out", False)
    walks = paths(atlas, PAIRS, steps=11, cells_per_pair=20, seed=seed)
    spaces, found = {"scGPT": embed(walks.mixes)}, {}
    for name in ("mixtures", "single cells"):
        embeddings, targets = bank(12_000, "train", name == "mixtures")
        weights, _ = fit(embeddings, targets, passes=20, seed=seed)
        scores = held_out_scores(weights, mixed, single, targets)
        spaces[name] = smooth(weights, spaces["scGPT"])
        found[name] = (scores["mse_logits"], scores["pearson"])
    deviation = straightness(walks, spaces).query("pair == 'mean'").set_index("space")["deviation"]
    return {name: (*values, deviation[name]) for name, values in found.items()}, deviation["scGPT"]


def test_a_network_trained_on_mixtures_tells_mixtures_better(tmp_path):
    results = []
    for seed in SEEDS:
        (tmp_path / str(seed)).mkdir()
        results.append(compare(seed, tmp_path / str(seed)))
    print(f"\nMLP-A on {len(SEEDS)} simulated atlases, mixtures of held-out donors' cells (chance: error 0.037)")
    for name in ("mixtures", "single cells"):
        error, r, deviation = np.mean([of_seed[name] for of_seed, _ in results], axis=0)
        print(f"  trained on {name:13} error {error:.4f}  Pearson r {r:.3f}  deviation of walks {deviation:.3f}")
    print(f"  the embedding itself {'':36} {np.mean([raw for _, raw in results]):.3f}")
    pairs = np.array([[of_seed[name] for name in ("mixtures", "single cells")] for of_seed, _ in results])
    ratio = pairs[:, 0, 0] / pairs[:, 1, 0]
    half = t.ppf(0.975, len(ratio) - 1) * ratio.std(ddof=1) / len(ratio) ** 0.5
    print(f"  error, mixtures / single cells: {ratio.mean():.2f} ± {half:.2f} (95 % t-interval over seeds)")
    assert ratio.max() < 0.85
    assert (pairs[:, 0, 2] < pairs[:, 1, 2]).all()
    assert np.mean(pairs[:, 0, 2]) < np.mean([raw for _, raw in results])
