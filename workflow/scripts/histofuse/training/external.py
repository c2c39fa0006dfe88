"""A run's predictions for the cases of another cohort: its weights and its scaling, nothing fitted or chosen anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from histofuse.io import InputError, read_table
from histofuse.models.registry import Estimator
from histofuse.training.dataset import (
    Split,
    check_present,
    columns_of,
    is_table,
    read_images,
    rows_of,
    target_of,
)
from histofuse.training.heads import Head
from histofuse.training.run import make_head, scaling_of, trained_model
from histofuse.training.scaling import BlockScaler

MAX_LACKING = 0.05  # of the columns that a block reads: above, the model would see another patient than there is
LEAST_SHARED = 0.5  # of the genes of a joined cohort: below, TPM over those that are there is another quantity
_NO_SOURCE = pd.Series(dtype=str)  # by case: none of the sources that were trained on
_LARGEST_LOG_TPM = np.log2(1e6 + 1) + 1e-3


def read_at_scoring(inputs: dict[str, dict]) -> dict[str, dict]:
    """The inputs of a model entry that a prediction needs: all but those for training only.

    Raises InputError naming an input that has no meaning on another cohort.
    """
    kept = {name: options for name, options in inputs.items() if not options.get("training_only")}
    for name, options in kept.items():
        reasons = {
            "it is the vectors of another run, which are made for the cohort of that run only": "run" in options,
            "the inputs of this control are shuffled within the parts of its own splits": options.get("shuffled"),
            "it tells the source cohort of a case, and nothing was learnt of this one": options.get("from") == "source",
        }
        for reason, applies in reasons.items():
            if applies:
                raise InputError(f"inputs: {name}: {reason}; a model with it cannot be scored on another cohort")
    return kept


def read_external(
    files: Mapping[str, str | Path],
    population: pd.DataFrame,
    split: Split,
    task: dict,
    inputs: dict[str, dict],
    called: bool = False,
    genes: Sequence[str] | None = None,
) -> Split:
    """The cases of another cohort as a split whose only part is "test", scaled as `split` is.

    A block that is scaled per source has figures of the sources that were trained on, and of all training cases
    together. This cohort is none of these sources, so that its cases are scaled by the figures of all training cases;
    its own would be learnt of the cases that are to be predicted. The log says so.

    Args:
        files: of the other cohort, named as for `read_split`; of its tables and images only.
        population: `case_id, time_days, event, label` of the cases to predict.
        split: of the run, which fitted the scalers; task, inputs: of the run (`inputs` as of `read_at_scoring`).
        called: the alterations were called from files of whole exomes and genomes, and none was left out for being
            rare, so that one without a column is one that no case has.
        genes: of the expression of a meta cohort that the run was trained on (`genes_of`). Its TPM are per million of
            these, the other cohort's of all genes that its files list, so that they are scaled likewise.
    Raises InputError when a case was trained on, lacks an input, the other cohort's features have another width, or a
    block lacks too many columns.
    """
    own = set(split.rows.loc[split.rows["part"] != "test", "case_id"])
    if shared := sorted(own & set(population["case_id"])):
        raise InputError(
            f"{len(shared)} cases to be scored were trained on (e.g. {shared[0]}): this is no external cohort"
        )
    cases = population.sort_values("case_id", ignore_index=True).assign(part="test")
    bags, regions = read_images(files, inputs)
    for name, store in bags.items():
        if store.width != split.bags[name].width:
            raise InputError(
                f"inputs: {name}: the features have {store.width} values per tile, those trained on "
                f"{split.bags[name].width}; encode both cohorts alike"
            )
    rows = rows_of(cases, inputs, bags, regions, {}, {})
    blocks = {}
    for name, options in inputs.items():
        if is_table(name, options):
            table = columns_of(read_table(files[name]), options.get("from", name))
            check_present(cases, table.index, name)
            table = table.loc[cases["case_id"]]
            if called and options.get("from", name) == "alterations":
                table = with_absent_alterations(split.scalers[name], table, name)
            if genes is not None and options.get("from", name) == "expression":
                table = per_million_of(genes, table, name)
            if options.get("per_source"):
                print(f"{name}: scaled by the figures of all training cases, as none are of the cohort to be scored")
            aligned = with_columns_of(split.scalers[name], table, name)
            blocks[name] = split.scalers[name].apply(aligned.loc[rows["case_id"]], _NO_SOURCE)
    about, target = target_of(rows, task)
    return Split(about, target, blocks, bags, split.bag_scales, split.scalers, regions)


def genes_of(files: Mapping[str, str | Path], inputs: dict[str, dict]) -> list[str] | None:
    """The genes of the table of expression that a run's inputs read; None where they read none."""
    of_expression = [name for name, options in inputs.items() if options.get("from", name) == "expression"]
    if not of_expression:
        return None
    return [name for name in pq.read_schema(files[of_expression[0]]).names if name != "case_id"]


def per_million_of(genes: Sequence[str], table: pd.DataFrame, block: str) -> pd.DataFrame:
    """log2(1 + TPM) [case, gene] with the TPM of each case scaled to a million over those of `genes` that are there.

    As `genomics.expression.join_cohorts` scales the members of a meta cohort. Missing values stay missing. Raises
    InputError for values that are no log2(1 + TPM), a case that expresses none of the genes, and when fewer than
    `LEAST_SHARED` of the genes are there.
    """
    there = [name for name in genes if name in table and table[name].notna().any()]
    if len(there) < LEAST_SHARED * len(genes):
        raise InputError(
            f"inputs: {block}: the cohort to be scored has {len(there)} of the {len(genes)} genes of the expression "
            f"trained on; TPM cannot be scaled alike over fewer than {LEAST_SHARED:.0%} of them"
        )
    values = table[there].to_numpy(np.float64)
    least, most = np.nanmin(values), np.nanmax(values)
    if least < 0 or most > _LARGEST_LOG_TPM:
        raise InputError(
            f"inputs: {block}: the expression trained on is log2(1 + TPM), between 0 and 20; that of the cohort to be "
            f"scored reaches from {least:g} to {most:g}"
        )
    tpm = np.exp2(values) - 1
    total = np.nansum(tpm, axis=1, keepdims=True)
    if (total == 0).any():
        raise InputError(f"inputs: {block}: case {table.index[int(total.argmin())]} expresses none of the genes")
    print(
        f"{block}: TPM are scaled to a million over {len(there)} of the {len(genes)} genes of the expression trained on"
    )
    return pd.DataFrame(np.log2(1 + tpm * (1e6 / total)), index=table.index, columns=there)


def with_absent_alterations(scaler: BlockScaler, table: pd.DataFrame, block: str) -> pd.DataFrame:
    """A table of alterations with a column of zeros for each that a fitted scaler reads and no case has.

    Raises InputError when it has none of them: then names differ, not tumours.
    """
    absent = [name for name in scaler.names if name not in table]
    if len(absent) == len(scaler.names):
        raise InputError(f"inputs: {block}: none of the {len(absent)} alterations that the model reads is there")
    if absent:
        print(
            f"{block}: {len(absent)} of {len(scaler.names)} alterations are in no case to be scored: "
            f"{', '.join(absent)}"
        )
    return pd.concat([table, pd.DataFrame(0, index=table.index, columns=absent)], axis=1)


def with_columns_of(scaler: BlockScaler, table: pd.DataFrame, block: str) -> pd.DataFrame:
    """A table with the columns that a fitted scaler reads, matched by name: [case, column].

    A column that is not there, or of which no case has a value, gets the mean of the training part (0 once it is
    standardised; the median for normal scores), and is named in the log. Raises InputError when these are more than
    `MAX_LACKING` of those that the model reads, or one of them holds text, of which there is no mean.
    """
    whole = scaler.figures[""]
    middle = dict(zip(scaler.names, whole.median if scaler.quantile else whole.mean))
    there = set(table.columns[table.notna().any()])
    numbers = [name for name in scaler.numeric if name in middle]
    texts = [name for name, levels in scaler.levels.items() if any(f"{name}={level}" in middle for level in levels)]
    lacking = [name for name in [*numbers, *texts] if name not in there]
    read = len(numbers) + len(texts)
    if len(lacking) > MAX_LACKING * read or set(lacking) & set(texts):
        raise InputError(
            f"inputs: {block}: {len(lacking)} of the {read} columns that the model reads are not there, or without a "
            f"value, in the cohort to be scored (e.g. {lacking[0]}); at most {MAX_LACKING:.0%} may be, and none of text"
        )
    if lacking:
        print(
            f"{block}: {len(lacking)} of the {read} columns that the model reads are not there and get the training "
            f"mean: {', '.join(lacking)}"
        )
    # What was constant in training is read and then passed over: any number will do.
    passed_over = {name: 0.0 for name in [*scaler.numeric, *scaler.levels] if name not in middle and name not in table}
    filled = pd.DataFrame({name: middle[name] for name in lacking} | passed_over, index=table.index)
    return pd.concat([table.drop(columns=[name for name in lacking if name in table]), filled], axis=1)


def check_scaling(split: Split, weights: dict[str, np.ndarray]) -> None:
    """Raise InputError where the scaling of a split, fitted again, is not that which was kept with a run's weights."""
    for name, values in scaling_of(split).items():
        kept = weights.get(name)
        if kept is None or kept.shape != np.shape(values) or not np.allclose(kept, values, rtol=1e-4, atol=1e-6):
            raise InputError(f"{name} is not that of the run's weights: its data have changed since; train again")


def predict_external(
    model_class: type,
    entry: dict,
    task: dict,
    split: Split,
    external: Split,
    weights: dict[str, np.ndarray],
    own: pd.DataFrame,
    threads: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(predictions, predictions per slide) of a trained model for the cases of another cohort.

    The predictions hold its cases as part "test", and before them the run's own training cases as part "train", from
    `own`, the run's predictions: they gave the baseline hazard of the survival curves and are what risk groups are
    told apart by. They are not for censoring weights: how long patients were followed is a property of the cohort
    that is scored, so a metric has to estimate these weights on its own cases (see `evaluation.score`).

    Args:
        model_class, entry, task: of the run; split: as `read_split` gives it for `read_at_scoring` of its inputs;
        external: of `read_external`; weights: of the run.
    Raises InputError when the weights do not fit, or the class cannot predict from its weights.
    """
    check_scaling(split, weights)
    head = make_head(entry, task, split, model_class)
    outputs, parts = _outputs(model_class, entry, split, external, head, weights, threads)
    train = own[own["part"] == "train"]
    number, seed = (int(own[name].iloc[0]) for name in ("split", "seed"))
    found = head.predictions(outputs, external, number, seed, train).assign(**head.risk_of_parts(parts, external))
    return pd.concat([train, found], ignore_index=True), head.slide_predictions(outputs, external, number, seed)


def _outputs(model_class, entry, split, external, head: Head, weights, threads):
    """Outputs [row · crop, output] and {branch: its part}."""
    if issubclass(model_class, Estimator):
        if not hasattr(model_class, "restore"):
            raise InputError(
                f"{model_class.__name__} cannot predict from its weights: it has no method restore(weights); see "
                "histofuse.models.linear"
            )
        model = model_class(**entry.get("params", {})).restore(weights)
        return model.predict(external.blocks), {}
    import torch

    from histofuse.training.loop import Batches, choose_device
    from histofuse.training.predict import outputs_and_parts

    torch.set_num_threads(threads)
    model = trained_model(model_class, entry, split, head, weights)
    return outputs_and_parts(model, Batches(external, choose_device()), np.arange(len(external.rows)))
