"""`make clean` removes what can be made again, and keeps what somebody fetched by hand."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[3]
MADE = ["resources/tcga/manifest.tsv", "resources/cache/scgpt/a.npz", "results/tables/a.csv", "logs/a.log"]
MADE += ["benchmarks/a.tsv", ".snakemake/locks/0.lock"]
KEPT = ["resources/scgpt/whole-human/best_model.pt", "resources/pretrained/vgg19-bn/vgg.pth"]
KEPT += ["resources/atlases/census.h5ad", ".snakemake/metadata/a", "results/README.md", ".venv/bin/python"]


def clean(folder):
    return subprocess.run(["make", "clean"], cwd=folder, capture_output=True, text=True, timeout=60)


def test_checkpoints_weights_and_cells_stay(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in (*MADE, *KEPT):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for _ in range(2):  # a second time there is nothing left to do
        done = clean(tmp_path)
        assert done.returncode == 0, done.stderr
        assert [name for name in MADE if (tmp_path / name).exists()] == []
        assert [name for name in KEPT if not (tmp_path / name).exists()] == []
    for folder in ("atlases", "pretrained", "scgpt"):
        assert f"kept: resources/{folder}" in done.stdout.splitlines()


def test_nothing_was_run_yet(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "results").mkdir()
    assert clean(tmp_path).returncode == 0
