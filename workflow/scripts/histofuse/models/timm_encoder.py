"""Any image network of timm as the encoder of an image branch, trained with the rest of the model."""

from __future__ import annotations

import difflib
from pathlib import Path

from torch import Tensor, nn

from histofuse.io import InputError
from histofuse.models.checkpoint import COUNTER, check_fit, read_weights
from histofuse.models.torchvision_shim import ensure_torchvision


class TimmEncoder(nn.Module):
    """Images [n, 3, px, px] → [n, width] by timm's own pooling, the classifier left out.

    Args:
        model: a name of timm, e.g. resnet18.tv_in1k; the part behind the dot names weights and changes nothing else.
        checkpoint: file with weights of the whole model, its classifier with or without; None: random ones.
        others: keywords of timm's `create_model`, e.g. `img_size` of a vision transformer, `drop_path_rate`.
    Raises InputError without timm, for a model or a keyword that it does not know, and as `load_weights` does.
    """

    def __init__(self, model: str, checkpoint: str | Path | None = None, **keywords):
        super().__init__()
        try:
            ensure_torchvision()
            import timm
        except ModuleNotFoundError as error:
            raise InputError(f"params: encoder: model: {model!r} needs timm and torchvision ({error})") from error
        if not timm.is_model(model):
            near = difflib.get_close_matches(model, timm.list_models(), n=3)
            hint = f"; near it are {', '.join(near)}" if near else ""
            raise InputError(f"params: encoder: model: timm {timm.__version__} has no {model!r}{hint}")
        try:
            self.network = timm.create_model(model, num_classes=0, **keywords)
        except TypeError as error:
            raise InputError(f"params: encoder: {model}: {error}") from error
        self.width = self.network.num_features
        if checkpoint is not None:
            load_weights(self.network, checkpoint)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Put the weights of a file into a network of timm's; the classifier's, which it does not have, are left aside.

    Raises InputError naming the file and the tensors that are missing, unknown, of another shape or not finite.
    """
    path = Path(path)
    _, state = read_weights(path)
    classifier = network.default_cfg.get("classifier") or ()
    prefixes = tuple(f"{name}." for name in ([classifier] if isinstance(classifier, str) else classifier))
    state = {name: value for name, value in state.items() if not name.startswith(prefixes)}
    wanted = {name: value for name, value in network.state_dict().items() if not name.endswith(COUNTER)}
    check_fit(state, wanted, path)
    network.load_state_dict(state, strict=False)  # but for the counters `check_fit` was the strict comparison
