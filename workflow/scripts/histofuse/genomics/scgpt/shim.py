"""Load scgpt's `TransformerModel` without the rest of the package."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import warnings
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

# Where scgpt's folder `model` is loaded, so that `scgpt` itself stays untouched for whoever imports it whole.
PRIVATE_NAME = "_histofuse_scgpt_model"


@functools.cache
def transformer_model() -> type[nn.Module]:
    """scgpt's own class, from its own file `scgpt/model/model.py`.

    `import scgpt` stops at torchtext, which no longer loads beside a current torch, and needs IPython, datasets
    and scanpy for what is not used here. The model's file needs none of them: it asks only for torch, numpy, tqdm
    and two files that lie beside it. So nothing has to be put in place of torchtext: the folder is made a package
    of its own, whose `__init__` (which imports all the others) is not run.

    Raises ModuleNotFoundError, saying how to install it, where scgpt is absent.
    """
    spec = importlib.util.find_spec("scgpt")  # finds the folder and runs nothing
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("scgpt is not installed: pip install --no-deps scgpt==0.2.4", name="scgpt")
    package = ModuleType(PRIVATE_NAME)
    package.__path__ = [f"{folder}/model" for folder in spec.submodule_search_locations]
    sys.modules[PRIVATE_NAME] = package
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="flash_attn is not installed")  # torch's own attention is used
        return importlib.import_module(f"{PRIVATE_NAME}.model").TransformerModel
