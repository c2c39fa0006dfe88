"""Let `import timm` work where torchvision's compiled operators do not load."""

from __future__ import annotations

import importlib
import sys

import torch

_declared: torch.library.Library | None = None


def ensure_torchvision() -> None:
    """Import torchvision, declaring two of its operators when its own library cannot be loaded.

    The published torchvision wheel is built for one build of torch. Beside another (a CPU-only one, for
    example) its operators are missing and the import stops at "operator torchvision::nms does not exist",
    although nothing that timm takes from it needs them. Where torchvision loads as it is, this does nothing.
    """
    global _declared
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::nms" not in str(error) or _declared is not None:
            raise
        # torch removes what a Library declared when the object dies, so it is kept.
        _declared = torch.library.Library("torchvision", "DEF")
        _declared.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        importlib.import_module("torchvision")
