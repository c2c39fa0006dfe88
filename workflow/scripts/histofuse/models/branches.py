"""Image branches that multimodal models have in common: from a batch's images to one vector per row."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from histofuse.bags import is_bag
from histofuse.io import InputError
from histofuse.models.layers import AttentionPooling
from histofuse.models.registry import load_class
from histofuse.models.t2t_checkpoint import t2t_encoder


def image_branch(shapes: dict[str, tuple[int, ...]], settings: Mapping | None = None) -> RegionEncoder | PooledTiles:
    """The branch for the images that a model is given: a network on regions, or attention over a slide's tiles.

    Args:
        shapes: of the model's inputs. settings: keywords of the branch's class. Raises InputError without images.
    """
    if "regions" in shapes:
        return RegionEncoder(shapes["regions"], **(settings or {}))
    if "tiles" in shapes:
        return PooledTiles(shapes["tiles"], **(settings or {}))
    raise InputError(f"inputs: the model reads regions or tiles; there are only {', '.join(shapes)}")


def tables(shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """{tabular block: features}, in the order of the entry's `inputs`."""
    return {name: shape[0] for name, shape in shapes.items() if name != "regions" and not is_bag(name)}


class RegionEncoder(nn.Module):
    """Any image network, trained with the rest: {"regions": [batch, 3, px, px]} → [batch, width].

    Args:
        shape: (3, px, px).
        encoder: {"class": "module:Name", keywords of it}. The class makes vectors of images and has their width as
            `width` or `num_features`; any network of timm is {"class": "histofuse.models.timm_encoder:TimmEncoder",
            "model": its name}. By default T2T-ViT-14, whose other keywords can be given alone; `checkpoint` is a file
            with its released weights.
        project: width of a linear layer after it; None for none.
        activate: whether a ReLU follows, as in Pathomic Fusion's feature layer.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        encoder: Mapping | None = None,
        project: int | None = None,
        activate: bool = False,
    ):
        super().__init__()
        keywords = dict(encoder or {})
        name = keywords.pop("class", None)
        if name is None:
            self.encoder = t2t_encoder(**({"image_px": shape[-1]} | keywords))
        else:
            self.encoder = load_class(name)(**keywords)
        width = getattr(self.encoder, "width", getattr(self.encoder, "num_features", None))
        if width is None:
            raise InputError(f"params: encoder: {name} does not say how wide its vectors are; give it `width`")
        self.project, self.width = projection(width, project, activate)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.project(self.encoder(batch["regions"]))


class PooledTiles(nn.Module):
    """Attention over stored features: {"tiles": [batch, tile, width], "tiles_count": …} → [batch, width].

    Args: shape: (width,); hidden: of the attention; project, activate: see `RegionEncoder`.
    """

    def __init__(self, shape: tuple[int, ...], hidden: int = 128, project: int | None = None, activate: bool = False):
        super().__init__()
        self.pooling = AttentionPooling(shape[0], hidden)
        self.project, self.width = projection(shape[0], project, activate)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.project(self.pooling(batch["tiles"], batch["tiles_count"]))


def projection(width: int, to: int | None, activate: bool) -> tuple[nn.Module, int]:
    """A linear layer (None: none) and, if asked for, a ReLU; and the width of what comes out."""
    layers: list[nn.Module] = [] if to is None else [nn.Linear(width, to)]
    return nn.Sequential(*layers, *([nn.ReLU()] if activate else [])), to or width
