"""What the tests of the workflow share: copies of it to run and to edit, and small configurations and tables."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
NO_SHARED = "needs ../shared beside the repository: real tables and released predictions"
PARTS_OF_THE_WORKFLOW = ("workflow", "config", "profiles", "envs")

TINY = """
cohorts:
  tiny:
    label: Tiny glioma
    source: simulated
    simulated: {cases: 48, seed: 7, genes: 193, slide_pixels: 1024, slides_per_case: 1, missing: 0.05, broken_slides: 3}
    files_per_job: {slide: 24}
  tiny_ivygap:
    source: simulated
    simulated: {study: ivygap, cases: 16, seed: 8, genes: 193, slide_pixels: 1024, slides_per_case: 1, broken_slides: 0}
    files_per_job: {slide: 16}
  tiny_meta: {label: Tiny glioma of two cohorts, source: meta, cohorts: [tiny, tiny_ivygap]}
  tiny_cptac:
    label: Tiny external glioma
    source: simulated
    simulated:
      {study: cptac, files: slides, cases: 24, seed: 9, slide_pixels: 900, slides_per_case: 2, broken_slides: 0}
    files_per_job: {slide: 60}
gene_selections:
  hvg30: {top: 0.6}        # of 175 genes, so that some of each group are among them
atlases:
  tiny_cells: {source: simulated, simulated: {cells_per_type: 12, donors: 4, genes: 193, seed: 7}, held_out: 0.25}
embeddings:
  scgpt:
    checkpoint: simulated
    simulated: {layers: 2, width: 32, heads: 2, seed: 7}
    atlas: tiny_cells
    panel: {size: 60}
    bank: 400
    held_out: 100
    gpu: 0
  scgpt_zscore: {checkpoint: simulated, atlas: tiny_cells, panel: {size: 60}, values: zscore, gpu: 0}
slide_features:
  resnet50_20x: {encoder: test_resnet, weights: random, mpp: 0.5, max_tiles: 4, stain: {method: macenko}, gpu: 0}
  regions_20x: {encoder: test_resnet, weights: random, tile_px: 96, regions: dense, gpu: 0}
slide_regions:
  dense: {side_px: 256, per_slide: 2, crop_px: 128, stride_px: 64, stain: {method: reinhard}}
tasks:
  survival: {kind: survival, modalities: [expression, alterations, resnet50_20x]}
  survival_expression: {kind: survival, modalities: [expression, resnet50_20x]}
  survival_intervals:
    kind: survival
    modalities: [expression, resnet50_20x]
    loss: {name: discrete, intervals: 4}
    training: {epochs: 4}
  survival_regions: {kind: survival, modalities: [expression, alterations, dense]}
  grading:
    kind: classification
    column: grade
    classes: {"2 or 3": [2, 3], "4": [4]}
    modalities: [expression, alterations, resnet50_20x]
protocols:
  mccv2: {kind: mccv, n_splits: 2, test: 0.25, seed: 1}
models:
  snn_genomic: {training: {epochs: 3}}
  attmil: {inputs: {tiles: {features: resnet50_20x, bag: 4}}, training: {epochs: 3}, gpu: 0}
  attmil_regions: {extends: attmil, inputs: {tiles: {features: regions_20x, bag: 18}}, training: {epochs: 2}}
  concat_short: {extends: concat, training: {epochs: 2}}
  snn_scgpt: {training: {epochs: 3}}
  snn_hvg: {training: {epochs: 3}}
  snn_alterations: {training: {epochs: 3}}
  t2t_vit: &images
    inputs: {regions: {stride_px: 128, input_px: 32}}
    params: {image: {encoder: {width: 12, depth: 1, heads: 2, token_width: 8}}}
    training: {epochs: 2}
    gpu: 0
  path_gptomic_frame: *images
  vgg19:
    inputs: {regions: {input_px: 32}}
    params: {image: {encoder: {stages: [[4, 1], [8, 1]], pooled: 2, hidden: [8], dropout: [0.1], frozen: false}}}
    training: {epochs: 2}
    gpu: 0
  pathomic_fusion: {training: {epochs: 3, constant_epochs: 1, frozen: {genomic: 1}}, gpu: 0}
  ks_fusion_frame: {training: {epochs: 2}, gpu: 0}
  ks_fusion: {inputs: {tiles: &map {features: resnet50_20x, bag: 36}}, params: {bag: 36}}
  disentangled_teacher: {inputs: {tiles: *map, tiles_10x: *map}, params: {bag: 36}, training: {epochs: 2}}
  disentangled_student: {inputs: {tiles: *map, tiles_10x: *map}, params: {bag: 36}, training: {epochs: 2}, gpu: 0}
tunings:
  two: {trials: 2, inner: 0.25, seed: 1, space: {lr: {log: [0.0001, 0.01]}, weight_decay: [0, 0.01]}}
tables:
  tiny_survival:
    title: Survival of the tiny cohort
    cohort: tiny
    task: survival
    protocol: mccv2
    seeds: [0]
    metrics: [harrell_c, uno_c]
    kaplan_meier: [concat_short]
    heatmaps: [attmil, attmil_regions]
    reference_row: Concat
    rows:
      - {label: Clinical, model: clinical}
      - &snn {label: SNN, model: snn_genomic}
      - {label: AttMIL, model: attmil}
      - {label: AttMIL (regions), model: attmil_regions}
      - {label: Concat, model: concat_short}
  tiny_grading:
    title: Grading of the tiny cohort
    cohort: tiny
    task: grading
    protocol: mccv2
    seeds: [0]
    metrics: [macro_auc, f1]
    roc: [clinical, concat_short]
    sensitivity: {label: Number of inputs, rows: {Clinical: 1, Concat: 3}}
    reference_row: Clinical
    rows:
      - {label: Clinical, model: clinical}
      - {label: Concat, model: concat_short}
  tiny_spaces:
    title: Spaces of expression of the tiny cohort
    cohort: tiny
    task: survival
    protocol: mccv2
    seeds: [0]
    metrics: [harrell_c]
    reference_row: scGPT
    rows:
      - {label: scGPT, model: snn_scgpt}
      - {label: "scGPT, shown z-scores", model: snn_scgpt_zscore}
      - {label: scGPT smoothed, model: snn_scgpt_smoothed}
      - {label: scGPT smoothed by mixed embeddings, model: snn_scgpt_embedding_mixup}
  tiny_regions:
    title: Survival from regions of the tiny cohort
    cohort: tiny
    task: survival_regions
    protocol: mccv2
    seeds: [0]
    metrics: [harrell_c]
    hazards: [path_gptomic]
    modulation: [path_gptomic]
    reference_row: Path-GPTOmic
    rows:
      - {label: T2T-ViT, model: t2t_vit}
      - {label: Pathomic Fusion, model: pathomic_fusion_cnn}
      - {label: Path-GPTOmic, model: path_gptomic}
  tiny_two_cohorts:
    title: Two tiny cohorts as one
    cohort: tiny_meta
    task: survival_expression
    protocol: mccv2
    seeds: [0]
    metrics: [harrell_c]
    reference_row: Highly variable genes
    rows:
      - {label: Highly variable genes, model: snn_hvg}
      - {label: Scaled as one, model: snn_hvg_pooled}
      - {label: AttMIL, model: attmil}
  tiny_tuned:
    title: Tuned rows of the tiny cohort
    cohort: tiny
    task: survival
    protocol: mccv2
    seeds: [0]
    metrics: [harrell_c]
    tuning: two
    reference_row: SNN
    rows:
      - {label: Clinical, model: clinical}
      - *snn
  tiny_subspaces:
    title: Tumour and microenvironment of two tiny cohorts
    cohort: tiny_meta
    task: survival_intervals
    protocol: mccv2
    seeds: [0]
    metrics: [harrell_c, slide_harrell_c]
    heatmaps: [ks_fusion]
    sampling_points: [ks_fusion]
    gene_importance: [ks_fusion]
    reference_row: KS-Fusion
    rows:
      - {label: KS-Fusion, model: ks_fusion}
      - {label: Student of the teacher, model: disentangled_distilled}
      - {label: The student on slides of another cohort, model: disentangled_distilled, scored_on: tiny_cptac}
"""


def tiny_config() -> dict:
    """A configuration of the smallest simulated cohort on which every stage has something to do."""
    return yaml.safe_load(TINY)


@dataclass(frozen=True)
class Plan:
    """What a dry run would do: jobs per rule, and the message of each job."""

    jobs: dict[str, int]
    messages: list[str]

    @property
    def trained(self) -> set[str]:
        """Models of the planned training jobs."""
        return {match[1] for text in self.messages if (match := re.match(r"Training (\S+) for", text))}


class Checkout:
    """A copy of the workflow in a folder of its own, so that a test can run it and edit its code."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in PARTS_OF_THE_WORKFLOW:
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "Snakefile", folder)

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def write_config(self, config: dict, name: str) -> str:
        (self / name).write_text(yaml.safe_dump(config, sort_keys=False))
        return name

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]

    def start(self, *arguments: str) -> subprocess.CompletedProcess:
        """Run snakemake to its end; stdout and stderr come together."""
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=1800,
            check=False,
        )

    def snakemake(self, *arguments: str) -> str:
        """Run snakemake, which must succeed; what it printed."""
        ended = self.start(*arguments)
        assert ended.returncode == 0, ended.stdout[-6000:]
        return ended.stdout

    def refused(self, *arguments: str) -> str:
        """Run snakemake, which must fail; what it printed."""
        ended = self.start(*arguments)
        assert ended.returncode != 0, ended.stdout[-6000:]
        return ended.stdout

    def plan(self, *arguments: str) -> Plan:
        output = self.snakemake("--dry-run", *arguments)
        stats = re.search(r"^Job stats:\n.*\n-[- ]*\n((?:\w+ +\d+\n)+)", output, re.MULTILINE)
        jobs = {name: int(count) for name, count in re.findall(r"(\w+) +(\d+)", stats[1])} if stats else {}
        jobs.pop("total", None)
        jobs.pop("all", None)
        return Plan(jobs, re.findall(r"^Job \d+: (.*)$", output, re.MULTILINE))

    @contextlib.contextmanager
    def edited(self, name: str, old: str, new: str) -> Iterator[None]:
        """Replace a text that occurs in a file; the file is as before when the block ends."""
        path = self / name
        before = path.read_text()
        assert old in before, f"{name} no longer holds {old!r}"
        try:
            path.write_text(before.replace(old, new, 1))
            yield
        finally:
            path.write_text(before)


def published_table(folder: Path, *, cases: int = 90, seed: int = 3) -> dict:
    """Write a table with the oddities of KIRC's, and its splits, as files of a mirror; return a cohort's entry.

    No oncotree_code, one missing is_female, a constant gene, heavily tied times. The protocol `published3` has three
    usable splits; in the second split of `censored2` nobody of the training part died.
    """
    rng = np.random.default_rng(seed)
    ids = [f"TCGA-KI-{number:04d}" for number in range(cases)]
    risk = rng.normal(size=cases)
    months = np.ceil(rng.exponential(np.exp(-risk)) * 3) * 6.0  # whole half-years: many ties
    table = pd.DataFrame(
        {
            "case_id": ids,
            "slide_id": [f"{case}-01Z-00-DX1.svs" for case in ids],
            "age": np.round(60 + 8 * rng.normal(size=cases)),
            "site": 1,
            "survival_months": months,
            "censorship": (rng.random(cases) < 0.5).astype(float),
            "is_female": rng.integers(0, 2, cases).astype(float),
            "train": 1.0,
            "CONSTANT_rnaseq": -0.25,
            **{f"GENE{k}_rnaseq": np.round((risk if k < 3 else 0) + rng.normal(size=cases), 4) for k in range(8)},
            **{f"GENE{k}_cnv": rng.integers(-2, 3, cases).astype(float) for k in range(5)},
            **{f"GENE{k}_mut": (rng.random(cases) < 0.3).astype(float) for k in range(4)},
        }
    )
    table.loc[5, "is_female"] = np.nan
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "tcga_tiny_all_clean.csv.zip", "w") as archive:
        archive.writestr("tcga_tiny_all_clean.csv", table.to_csv())
    order = rng.permutation(cases)
    for k in range(3):
        _write_split(folder / f"splits_{k}.csv", table, np.isin(np.arange(cases), order[k::3]))
    _write_split(folder / "censored_0.csv", table, np.isin(np.arange(cases), order[0::3]))
    dead = table["censorship"] == 0
    _write_split(folder / "censored_1.csv", table, dead.to_numpy())
    return {
        "label": "Tiny KIRC",
        "source": "published_tables",
        "table": pinned(folder / "tcga_tiny_all_clean.csv.zip"),
        "splits": {
            "published3": [pinned(folder / f"splits_{k}.csv") for k in range(3)],
            "censored2": [pinned(folder / f"censored_{k}.csv") for k in range(2)],
        },
    }


def pinned(path: Path) -> dict:
    """The entry of a published file: its address (the mirror holds it under host/path) and its checksum."""
    address = "/".join(path.parts[path.parts.index("files.example.org") :])
    return {"url": f"https://{address}", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _write_split(path: Path, table: pd.DataFrame, tested: np.ndarray) -> None:
    parts = {"train": table["case_id"][~tested], "val": table["case_id"][tested]}
    pd.DataFrame({name: ids.reset_index(drop=True) for name, ids in parts.items()}).to_csv(path)
