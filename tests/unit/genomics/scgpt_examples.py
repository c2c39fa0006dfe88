"""Small scGPT checkpoints in the official format, and profiles to embed."""

import json

import numpy as np
import torch

from histofuse.genomics.scgpt.shim import transformer_model

LAYOUTS = {
    "in_proj": ("self_attn.in_proj_", "self_attn.out_proj."),
    "flash": ("self_attn.Wqkv.", "self_attn.out_proj."),
    "impl": ("self_attn._impl.Wqkv.", "self_attn._impl.out_proj."),
}
ARGS = {  # those of the official folders that an embedding does not need are among them
    "embsize": 32,
    "nheads": 4,
    "d_hid": 48,
    "nlayers": 3,
    "n_layers_cls": 3,
    "dropout": 0.2,
    "pad_token": "<pad>",
    "pad_value": -2,
    "mask_value": -1,
    "n_bins": 51,
    "max_seq_len": 1200,
    "fast_transformer": True,
}
SYMBOLS = [f"G{i}" for i in range(300)]


def make_checkpoint(folder, layout="in_proj", args=ARGS, symbols=SYMBOLS, seed=0):
    """Write the three files; weights are random, with the heads of training, and no two layers have the same."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "args.json").write_text(json.dumps(args))
    (folder / "vocab.json").write_text(json.dumps({symbol: i for i, symbol in enumerate(symbols)}))
    torch.save(state_dict(layout, args, len(symbols) + 3, seed), folder / "best_model.pt")
    return folder


def state_dict(layout, args, tokens, seed):
    generator = torch.Generator().manual_seed(seed)
    model = transformer_model()(
        ntoken=tokens,
        d_model=args["embsize"],
        nhead=args["nheads"],
        d_hid=args["d_hid"],
        nlayers=args["nlayers"],
        nlayers_cls=args["n_layers_cls"],
        vocab={"<pad>": tokens - 3},
        pad_value=args["pad_value"],
        do_mvc=True,
    )
    in_proj, out_proj = LAYOUTS[layout]
    state = {}
    for key, value in model.state_dict().items():
        noise = torch.randn(value.shape, generator=generator)
        if value.ndim == 2:  # a gain of 1.5, so that attention is far from even
            drawn = 1.5 * noise / value.shape[1] ** 0.5
        else:
            drawn = (1 if "norm" in key and key.endswith("weight") else 0) + 0.1 * noise
        state[key.replace("self_attn.in_proj_", in_proj).replace("self_attn.out_proj.", out_proj)] = drawn
    return state


def profiles(lengths, seed=0):
    """Profiles [len(lengths), len(SYMBOLS)] without ties, with so many genes expressed."""
    rng = np.random.default_rng(seed)
    values = np.zeros((len(lengths), len(SYMBOLS)), dtype=np.float32)
    for row, length in zip(values, lengths):
        row[rng.choice(len(SYMBOLS), length, replace=False)] = rng.permutation(length) + 1
    return values
