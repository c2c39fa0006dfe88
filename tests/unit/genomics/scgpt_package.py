"""The scgpt package's own embedding, as the reference: its vocabulary, its collator, its model, its loop.

`import scgpt` itself cannot be done: it needs torchtext, which no longer loads beside a current torch, and IPython and
datasets, which it does not need here. So its folders are made packages whose `__init__` is not run, with stand-ins
for the names that the files on this road take from torchtext and IPython.
"""

import contextlib
import importlib
import importlib.util
import io
import logging
import sys
import warnings
from types import ModuleType

import anndata
import pandas as pd


class Vocab:
    """What scgpt's GeneVocab asks of torchtext.vocab.Vocab."""

    def __init__(self, vocab):
        self.vocab, self.default = vocab, None

    def __len__(self):
        return len(self.vocab)

    def __contains__(self, token):
        return token in self.vocab

    def __getitem__(self, token):
        return self.vocab.get(token, self.default)

    def __call__(self, tokens):
        return [self[token] for token in tokens]

    def insert_token(self, token, index):
        assert index == len(self.vocab)  # from_dict inserts in order
        self.vocab[token] = index

    def append_token(self, token):
        self.insert_token(token, len(self.vocab))

    def set_default_index(self, index):
        self.default = index


def vocab(counts, min_freq=1):
    """torchtext.vocab.vocab: a vocabulary of the tokens counted often enough, in their order."""
    return Vocab({token: i for i, token in enumerate(one for one, n in counts.items() if n >= min_freq)})


def package_embedding(folder, values, symbols):
    """`scgpt.tasks.embed_data` on the CPU, of profiles [profile, gene]: float32 [profile, width]."""
    data = anndata.AnnData(values, var=pd.DataFrame(index=symbols))
    with hollow_package(), warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        tasks = importlib.import_module("scgpt.tasks.cell_emb")
        out = tasks.embed_data(data, folder, gene_col="index", device="cpu", use_fast_transformer=False)
    return out.obsm["X_scGPT"]


@contextlib.contextmanager
def hollow_package():
    root = importlib.util.find_spec("scgpt").submodule_search_locations[0]
    modules = {name: ModuleType(name) for name in ("torchtext", "torchtext.vocab", "IPython")}
    modules["torchtext"].vocab = modules["torchtext.vocab"]
    modules["torchtext.vocab"].Vocab, modules["torchtext.vocab"].vocab = Vocab, vocab
    modules["IPython"].get_ipython = lambda: None
    for name in ("scgpt", "scgpt.tasks"):
        modules[name] = ModuleType(name)
        modules[name].__path__ = [str(root) + name.removeprefix("scgpt").replace(".", "/")]
    modules["scgpt"].logger = logging.getLogger("scGPT")
    before = sys.modules.copy()
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] in ("scgpt", "torchtext", "IPython")]:
            del sys.modules[name]
        sys.modules.update({name: module for name, module in before.items() if name in modules})
