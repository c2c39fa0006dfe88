"""The released T2T-ViT files (`81.5_T2T_ViT_14.pth.tar` and its sisters) and files of the same form."""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from histofuse.io import InputError
from histofuse.models.checkpoint import check_fit, read_weights
from histofuse.models.t2t_vit import T2TViT

RANDOM_FEATURES = "tokens_to_token.attention1.w"  # only a Performer has them


def t2t_encoder(image_px: int, checkpoint: str | Path | None = None, **settings) -> T2TViT:
    """T2T-ViT whose output is the class token, from a released file or from its initialisation.

    settings: of `T2TViT`. Raises InputError as `load_checkpoint` does.
    """
    model = T2TViT(image_px, num_classes=0, **settings)
    if checkpoint is not None:
        load_checkpoint(model, checkpoint)
    return model


def load_checkpoint(model: T2TViT, path: str | Path, head: bool = False) -> str | None:
    """Put the weights of a released file into a model; returns the entry of the file that was taken (None: the whole).

    The weights are the file's entry `state_dict_ema`, else `state_dict`, else the file itself; names may begin with
    `module.`. Every tensor of the model must be there and nothing else. The position table of another image size is
    resized. `head`: also load the classifier, which must then have the model's classes; otherwise the file's is left
    aside and the model keeps its own.

    Nothing in the file is executed. Raises InputError naming the file and the keys, and leaves the model as it was: a
    file that cannot be read or holds no weights, the other token module, tensors that are missing, unknown, of another
    shape or not finite.
    """
    path = Path(path)
    entry, state = read_weights(path)
    stored = "performer" if RANDOM_FEATURES in state else "transformer"
    if stored != model.token_module and any(key.startswith("tokens_to_token.") for key in state):
        raise InputError(
            f"{path}: {RANDOM_FEATURES} is {'there' if stored == 'performer' else 'missing'}, so its token module is "
            f"the {stored}, and the model's the {model.token_module}: set token_module to {stored}"
        )
    wanted = model.state_dict()
    if not head:
        state = {key: value for key, value in state.items() if not key.startswith("head.")}
        wanted = {key: value for key, value in wanted.items() if not key.startswith("head.")}
    if "pos_embed" in state:
        state["pos_embed"] = resize_positions(state["pos_embed"], wanted["pos_embed"].shape[1])
    check_fit(state, wanted, path)
    model.load_state_dict(state, strict=head)  # without a head, `check_fit` was the strict comparison of the rest
    return entry


def resize_positions(table: Tensor, positions: int) -> Tensor:
    """The table [1, 1 + side², width] for `positions` = 1 + another side²: bicubic, the class token's row as it is.

    A table that is not of this form comes back unchanged.
    """
    old, new = (math.isqrt(max(count - 1, 0)) for count in (table.shape[1] if table.ndim == 3 else 0, positions))
    if old == new or old == 0 or table.shape[:2] != (1, 1 + old * old):
        return table
    grid = table[:, 1:].unflatten(1, (old, old)).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(new, new), mode="bicubic")
    return torch.cat([table[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
