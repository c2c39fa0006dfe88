"""What each branch of a trained model makes of its inputs: permutation importance on the test part of its run."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from histofuse.bags import is_bag
from histofuse.evaluation.classification import macro_auc
from histofuse.evaluation.survival import harrell_c
from histofuse.evaluation.undefined import Undefined
from histofuse.io import InputError, progress
from histofuse.training.dataset import Split
from histofuse.training.heads import Head, mean_by, softmax
from histofuse.training.run import make_head, trained_model

GENE_TABLES = ("expression", "alterations")  # whose columns are permuted one by one as well
SEED = 0  # of the permutations, the same for every input
CANDIDATES = 20  # genes of a block that are permuted: those that a branch's gradient says most of
LARGE_BAG = 2500  # tiles of a bag for which AT_ONCE is meant
WHOLE = ""  # the branch that is the whole model


def gene_importance(
    model_class: type,
    entry: dict,
    task: dict,
    split: Split,
    weights: dict[str, np.ndarray],
    threads: int = 1,
    repeats: int = 10,
) -> pd.DataFrame:
    """What changes when an input of the test cases is that of other cases.

    Inputs are each block of a table, all tiles (of both magnifications), the regions, and the vectors of another run;
    those that are given in training alone are passed over. Of blocks of genes, also single columns: the CANDIDATES
    with the largest first-order effect on a branch, the mean of |∂part/∂gene · (its change)| over one permutation.

    Args:
        model_class: a torch module whose output has parts (`models.output.Output`); entry: its resolved config entry;
            task: its config entry. split: assembled as for the run. weights: as the run saved them.
        threads: that torch may use. repeats: permutations of the cases, none of which leaves a case in its place. A
            case with several slides or regions takes those of the other in turn.
    Returns: a row per input, `column` (a gene, "" for all of the input), `branch` (WHOLE or a part's name) and
        `repeat`. `change`: mean over cases and outputs of how far the branch's part of the output moves, each output
        in standard deviations of itself over the test cases (NaN where it is constant); with several rows a case, of
        their mean. `intact`, `permuted`: Harrell C or macro AUC (`metric`) of the branch alone with true and with
        permuted inputs; NaN where the test cases have none. `n_train`, `n_test`: cases. Of regions the middle crop
        alone is read.
    Raises InputError when the model has no parts, reads no table, or the test part has fewer than two cases.
    """
    from histofuse.training.loop import Batches, choose_device

    name = model_class.__name__
    head = make_head(entry, task, split)
    inputs = inputs_of(split)
    if not any(names[0] in split.blocks and names[0] in entry["inputs"] for names in inputs.values()):
        raise InputError(f"gene_importance: {name} reads no table; take it off the table's `gene_importance`")
    rows = split.part("test")
    givers = _givers(split.rows["case_id"].to_numpy()[rows], rows, repeats)
    model = _Model(trained_model(model_class, entry, split, head, weights), Batches(split, choose_device()), threads)
    judge = _Judge(head, split, rows)
    intact = model.outputs(rows)
    if len(intact) < 2:
        raise InputError(
            f"gene_importance: the output of {name} is no sum of branches; take it off the table's `gene_importance`"
        )
    frames = [judge(intact, model.permuted(rows, givers, names), source, "") for source, names in inputs.items()]
    for source in progress([source for source in inputs if _is_of_genes(entry, source)], "blocks of genes"):
        columns = model.candidates(rows, givers[0], source)
        names = split.scalers[source].names
        for column in columns:
            permuted = model.permuted(rows, givers, [source], column)
            frames.append(judge(intact, permuted, source, str(names[column])))
    return pd.concat(frames, ignore_index=True)


def inputs_of(split: Split) -> dict[str, list[str]]:
    """{input: names of what of a batch it is}: bags together as "tiles", vectors of a run under that input's name."""
    found: dict[str, list[str]] = {}
    for name in split.shapes:
        source = "tiles" if is_bag(name) else name if name in split.scalers else name.partition(".")[0]
        found.setdefault(source, []).append(name)
    return found


def _is_of_genes(entry: dict, source: str) -> bool:
    options = entry["inputs"].get(source, {})
    is_table = not is_bag(source) and "run" not in options and "components" not in options
    return is_table and options.get("from", source) in GENE_TABLES


def _givers(cases: np.ndarray, rows: np.ndarray, repeats: int) -> np.ndarray:
    """int64 [repeat, row]: of which row each of these rows gets its input.

    The j-th row of a case gets the j-th of the other's, from the first again where that has fewer.
    """
    ids, case = np.unique(cases, return_inverse=True)
    if len(ids) < 2:
        raise InputError("gene_importance: the test part has a single case, whose inputs cannot be permuted")
    of_case = [rows[case == k] for k in range(len(ids))]
    nth = np.array([(case[:k] == case[k]).sum() for k in range(len(case))])
    rng, found = np.random.default_rng(SEED), []
    for _ in range(repeats):
        order = rng.permutation(len(ids))
        other = np.empty_like(order)
        other[order] = np.roll(order, 1)
        found.append([of_case[k][j % len(of_case[k])] for k, j in zip(other[case], nth)])
    return np.array(found)


class _Model:
    """A frozen model that is asked for its outputs with some inputs exchanged."""

    def __init__(self, model, batches, threads: int):
        import torch

        torch.set_num_threads(threads)
        self.model, self.batches = model, batches

    def outputs(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """{branch: float64 [row, output]}, the whole model's under WHOLE."""
        return self._run(rows, rows, [])

    def permuted(
        self, rows: np.ndarray, givers: np.ndarray, names: list[str], column: int | None = None
    ) -> Iterator[dict[str, np.ndarray]]:
        """The same for each permutation, with the inputs of these names (or one column) taken from other rows."""
        together = self._run(np.tile(rows, len(givers)), givers.ravel(), names, column)
        for k in range(len(givers)):
            yield {branch: values[k * len(rows) : (k + 1) * len(rows)] for branch, values in together.items()}

    def candidates(self, rows: np.ndarray, giver: np.ndarray, block: str) -> np.ndarray:
        """Column numbers of a block, those with the largest first-order effect on any branch."""
        import torch

        values = self.batches.split.blocks[block]
        if values.shape[1] <= CANDIDATES:
            return np.arange(values.shape[1])
        effect: dict[tuple[str, int], np.ndarray] = {}
        for batch, of, source in self._batches(rows, giver, []):
            genes = batch[block].detach().requires_grad_(True)
            change = torch.as_tensor(values[source] - values[of], device=genes.device)
            with torch.enable_grad():
                for branch, part in self._parts(batch | {block: genes}).items():
                    for k in range(part.shape[1]):
                        (slope,) = torch.autograd.grad(part[:, k].sum(), genes, retain_graph=True, allow_unused=True)
                        if slope is not None:
                            moved = (slope * change).abs().sum(0).double().cpu().numpy()
                            effect[branch, k] = effect.get((branch, k), 0) + moved
        spread = {key: values.sum() for key, values in effect.items()}  # outputs differ in scale
        share = [values / spread[key] for key, values in effect.items() if spread[key] > 0]
        most = np.max(share, axis=0) if share else np.zeros(values.shape[1])
        return np.sort(np.argsort(-most, kind="stable")[:CANDIDATES])

    def _run(self, rows: np.ndarray, givers: np.ndarray, names: list[str], column: int | None = None) -> dict:
        import torch

        found: dict[str, list] = {}
        with torch.inference_mode():
            for batch, *_ in self._batches(rows, givers, names, column):
                for branch, part in self._parts(batch).items():
                    found.setdefault(branch, []).append(part)
        return {branch: torch.cat(parts).double().cpu().numpy() for branch, parts in found.items()}

    def _batches(self, rows: np.ndarray, givers: np.ndarray, names: list[str], column: int | None = None):
        """(batch, its rows, the rows that some of its inputs are of), in the order of the rows."""
        from histofuse.training.predict import AT_ONCE

        size = AT_ONCE["rows"]
        for store in self.batches.split.bags.values():  # small bags as many at once as table rows
            size = min(size, AT_ONCE["bags"] * max(1, LARGE_BAG // (store.bag or LARGE_BAG)))
        for start in range(0, len(rows), size):
            of, source = rows[start : start + size], givers[start : start + size]
            batch = self.batches.to_predict(of, middle=True)
            if names:
                batch = self._exchange(batch, source, names, column)
            yield batch, of, source

    def _exchange(self, batch: dict, source: np.ndarray, names: list[str], column: int | None) -> dict:
        from histofuse.training.augment import to_device

        blocks = self.batches.blocks
        if column is not None:
            (name,) = names
            values = batch[name].clone()
            values[:, column] = blocks[name][to_device(source, values.device), column]
            return batch | {name: values}
        if all(name in blocks for name in names):
            index = to_device(source, self.batches.device)
            return batch | {name: blocks[name][index] for name in names}
        images = self.batches.to_predict(source, middle=True)
        return batch | {name: values for name, values in images.items() if name not in blocks}

    def _parts(self, batch: dict) -> dict:
        from histofuse.models.output import Output, total_of
        from histofuse.training.predict import parts_of

        outputs = self.model(batch)
        return {WHOLE: total_of(outputs)} | (parts_of(outputs) if isinstance(outputs, Output) else {})


class _Judge:
    """How far outputs move, and what they are worth, on the cases of some rows."""

    def __init__(self, head: Head, split: Split, rows: np.ndarray):
        self.head, self.metric = head, "macro_auc" if head.kind == "classification" else "harrell_c"
        some, target = split.rows.iloc[rows].reset_index(drop=True), split.target.take(rows)
        self.rows = Split(some, target, {})
        self.case = pd.factorize(some["case_id"])[0]
        self.target = target.take(np.unique(self.case, return_index=True)[1])
        train = split.rows.loc[split.rows["part"] == "train", "case_id"]
        self.sizes = {"n_train": train.nunique(), "n_test": self.case.max() + 1}

    def __call__(self, intact: dict, permuted: Iterator[dict], source: str, column: str) -> pd.DataFrame:
        """Rows of the table for one input."""
        rows = []
        worth = {branch: self.worth(outputs) for branch, outputs in intact.items()}
        for repeat, outputs in enumerate(permuted):
            for branch, values in outputs.items():
                about = {"input": source, "column": column, "branch": branch, "repeat": repeat}
                about |= {"change": self.change(intact[branch], values), "metric": self.metric}
                rows.append(about | {"intact": worth[branch], "permuted": self.worth(values)} | self.sizes)
        return pd.DataFrame(rows)

    def change(self, before: np.ndarray, after: np.ndarray) -> float:
        """Mean of |after − before| in standard deviations of each output over cases; NaN where none varies."""
        before, after = mean_by(self.case, before), mean_by(self.case, after)
        sd = before.std(axis=0)
        varies = sd > 1e-9 * (1 + np.abs(before).max(axis=0))
        if not varies.any():
            return np.nan
        return float((np.abs(after - before)[:, varies] / sd[varies]).mean())

    def worth(self, outputs: np.ndarray) -> float:
        try:
            if self.metric == "macro_auc":
                return macro_auc(self.target.label, mean_by(self.case, softmax(outputs)))
            risk = self.head.risk_of_parts({"": outputs}, self.rows)["risk_"]
            return harrell_c(risk, self.target.time, self.target.event)
        except Undefined:
            return np.nan
