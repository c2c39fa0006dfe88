"""A small untrained scGPT checkpoint in the official format, made so that it tells cells apart nevertheless.

With plain random weights the class token hardly depends on the cell. Here it does, without anything being learnt:

- gene and value embeddings lie in different dimensions, so that a head can look at one and take the other;
- the hidden units of the value encoder have their kinks spread over the bins;
- in the first layer every head asks, through its bias, for values that are high, and takes the genes that have them:
  the class token becomes a mean of random gene vectors that is weighted by expression, another weighting per head;
- the later layers change this a little; their residual branches are small.

No gene is preferred and no gene lies near another, unlike in a trained model.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from histofuse.io import atomic, write_json, write_text
from histofuse.sources.simulated.genes import gene_catalogue
from histofuse.sources.simulated.settings import CheckpointSettings

FILES = ("args.json", "vocab.json", "best_model.pt")
SPECIAL = 3  # rows of the embedding for <pad>, <cls>, <eoc>, which readers append to the vocabulary
BINS = 51  # values are 1 to BINS - 1; 0 is absent
OTHERS = 200  # tokens that are no gene of the catalogue
SHARE_LEFT_OUT = 0.02  # of the catalogue's symbols, as a real vocabulary lacks some
VALUE_DIMENSIONS = 1 / 4  # share of the width that values have to themselves
SHARPNESS = 3.0  # sd over the bins of a head's attention score in the first layer
BRANCH = {"first": 5.0, "later": 0.3, "feed_forward": 0.1}  # size of the residual branches
CLS_LAYERS = 3
README = """\
A checkpoint in scGPT's format with random weights, made by the simulator of histofuse.
It was never trained. Its embeddings depend on the expression profile, but they know nothing about biology.
"""


def simulate_checkpoint(settings: Mapping, folder: str | Path) -> None:
    """Write `args.json`, `vocab.json`, `best_model.pt` and a README into `folder`, whose other files stay.

    `settings`: see `CheckpointSettings`. The same settings give the same bytes. Raises InputError for bad settings.
    """
    import torch

    chosen = CheckpointSettings.parse(settings)
    rng = np.random.default_rng([chosen.seed, chosen.layers, chosen.width, chosen.heads])
    vocabulary = draw_vocabulary(chosen, rng)
    weights = draw_weights(chosen, len(vocabulary) + SPECIAL, rng)
    if chosen.attention == "Wqkv":
        weights = {key.replace("self_attn.in_proj_", "self_attn.Wqkv."): value for key, value in weights.items()}
    # To a buffer: the name of the file would become part of the archive.
    buffer = io.BytesIO()
    torch.save({key: torch.from_numpy(value) for key, value in weights.items()}, buffer)

    folder = Path(folder)
    write_json(arguments(chosen), folder / "args.json")
    write_text(json.dumps(vocabulary), folder / "vocab.json")
    with atomic(folder / "best_model.pt") as temporary:
        temporary.write_bytes(buffer.getvalue())
    write_text(README, folder / "README.txt")
    size = sum(value.size for value in weights.values())
    print(f"{len(vocabulary)} tokens, {chosen.layers} layers of width {chosen.width}, {size:,} random weights")


def arguments(settings: CheckpointSettings) -> dict:
    """args.json: what readers take (sizes, padding) among what they ignore (how a model was trained)."""
    return {
        "data_source": "simulated",
        "save_dir": "simulated",
        "load_model": None,
        "n_hvg": None,
        "valid_size_or_ratio": 0.03,
        "grad_accu_steps": 1,
        "pad_token": "<pad>",
        "input_style": "binned",
        "input_emb_style": "continuous",
        "n_bins": BINS,
        "max_seq_len": 1200,
        "training_tasks": "both",
        "mask_ratio": [0.25, 0.5, 0.75],
        "trunc_by_sample": True,
        "vocab_path": "vocab.json",
        "batch_size": 32,
        "eval_batch_size": 64,
        "epochs": 0,
        "lr": 0.0001,
        "scheduler_interval": 100,
        "scheduler_factor": 0.99,
        "warmup_ratio_or_step": 10000.0,
        "no_cls": True,
        "no_cce": True,
        "fp16": True,
        "fast_transformer": settings.attention == "Wqkv",
        "nlayers": settings.layers,
        "nheads": settings.heads,
        "embsize": settings.width,
        "d_hid": settings.width,
        "dropout": 0.2,
        "n_layers_cls": CLS_LAYERS,
        "log_interval": 9000,
        "save_interval": 27000,
        "mask_value": -1,
        "pad_value": -2,
        "USE_CLS": False,
        "USE_CCE": False,
        "MVC": True,
        "USE_GENERATIVE_TRAINING": True,
    }


def draw_vocabulary(settings: CheckpointSettings, rng: np.random.Generator) -> dict[str, int]:
    """Token to index, in a shuffled order and without the special tokens."""
    symbols = gene_catalogue(settings.genes)["gene_name"].drop_duplicates().to_numpy(dtype=str)
    symbols = symbols[rng.random(len(symbols)) >= SHARE_LEFT_OUT]
    tokens = [*symbols, *(f"SIMULATED{number}" for number in range(1, OTHERS + 1))]
    return {str(tokens[k]): place for place, k in enumerate(rng.permutation(len(tokens)))}


def draw_weights(settings: CheckpointSettings, n_tokens: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The state dict, float32, with all keys of the official one (in_proj names, d_hid = width)."""
    width = settings.width
    own = max(1, round(VALUE_DIMENSIONS * width))
    of_genes, of_values = slice(0, width - own), slice(width - own, width)

    embedding = rng.standard_normal((n_tokens, width))
    embedding[:, of_values] = 0
    weights = {"encoder.embedding.weight": embedding, **_norm("encoder.enc_norm", width)}
    # relu(±(value - kink) / 10), a kink per hidden unit
    sign, kink = rng.choice([-1.0, 1.0], width), rng.permutation(np.linspace(0, BINS - 1, width))
    value_map = _random(rng, width, width)
    value_map[of_genes] = 0
    weights |= {
        "value_encoder.linear1.weight": sign[:, None] / 10,
        "value_encoder.linear1.bias": -sign * kink / 10,
        "value_encoder.linear2.weight": value_map,
        "value_encoder.linear2.bias": np.zeros(width),
        **_norm("value_encoder.norm", width),
    }
    values = np.arange(1, BINS)[:, None]
    shown = np.maximum((values - kink) * sign / 10, 0) @ value_map.T
    shown = (shown - shown.mean(1, keepdims=True)) / np.sqrt(shown.var(1, keepdims=True) + 1e-5)

    for layer in range(settings.layers):
        name = f"transformer_encoder.layers.{layer}"
        attention, bias = _random(rng, 3 * width, width), np.zeros(3 * width)
        if layer == 0:
            _look_at_high_values(attention, bias, shown, settings.heads, rng)
            attention[width : 2 * width, of_genes] = 0
            attention[2 * width :, of_values] = 0
        weights |= {
            f"{name}.self_attn.in_proj_weight": attention,
            f"{name}.self_attn.in_proj_bias": bias,
            f"{name}.self_attn.out_proj.weight": BRANCH["later" if layer else "first"] * _random(rng, width, width),
            f"{name}.self_attn.out_proj.bias": np.zeros(width),
            f"{name}.linear1.weight": 2**0.5 * _random(rng, width, width),
            f"{name}.linear1.bias": np.zeros(width),
            f"{name}.linear2.weight": BRANCH["feed_forward"] * 2**0.5 * _random(rng, width, width),
            f"{name}.linear2.bias": np.zeros(width),
            **_norm(f"{name}.norm1", width),
            **_norm(f"{name}.norm2", width),
        }
    weights |= _decoders(rng, width)
    return {key: np.ascontiguousarray(value, dtype=np.float32) for key, value in weights.items()}


def _look_at_high_values(
    attention: np.ndarray, bias: np.ndarray, shown: np.ndarray, heads: int, rng: np.random.Generator
) -> None:
    """Set queries and scale keys in place, so that every head's score rises with the value by SHARPNESS.

    `attention` [3 · width, width] holds queries, keys and values; `shown` [bins, width] what a value looks like.
    """
    width = shown.shape[1]
    part = width // heads
    attention[:width] = 0
    bias[:width] = rng.standard_normal(width)  # the question, the same for every token
    rising = np.linspace(-1, 1, len(shown))
    for head in range(heads):
        rows = slice(head * part, (head + 1) * part)
        keys = attention[width:][rows]  # a view
        score = shown @ keys.T @ bias[rows] / part**0.5
        keys *= SHARPNESS * np.sign(score @ rising) / max(score.std(), 1e-6)


def _decoders(rng: np.random.Generator, width: int) -> dict[str, np.ndarray]:
    """The heads that training uses and embedding does not."""
    weights = {}
    for name, out in (
        *((f"decoder.fc.{k}", 1 if k == 4 else width) for k in (0, 2, 4)),
        *((f"cls_decoder._decoder.{3 * k}", width) for k in range(CLS_LAYERS - 1)),
        ("cls_decoder.out_layer", 1),
        ("mvc_decoder.gene2query", width),
    ):
        weights |= {f"{name}.weight": _random(rng, out, width), f"{name}.bias": np.zeros(out)}
    for k in range(CLS_LAYERS - 1):
        weights |= _norm(f"cls_decoder._decoder.{3 * k + 2}", width)
    return weights | {"mvc_decoder.W.weight": _random(rng, width, width)}


def _random(rng: np.random.Generator, out: int, width: int) -> np.ndarray:
    return rng.standard_normal((out, width)) / width**0.5


def _norm(name: str, width: int) -> dict[str, np.ndarray]:
    return {f"{name}.weight": np.ones(width), f"{name}.bias": np.zeros(width)}
