"""On a larger simulated cohort both modalities together must beat each alone, and nothing the latent risk itself.

The whole workflow runs, from simulated raw files to the table; about ten minutes on two cores.
"""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[2]


def test_concat_beats_each_modality_and_nothing_beats_the_latent_risk(tmp_path):
    config = Path(__file__).with_name("simulated_fusion.yaml")
    command = ["-m", "snakemake", "results/tables/fusion.csv", "results/simulated_large/reachable.json"]
    options = ["--snakefile", ROOT / "Snakefile", "--directory", tmp_path, "--cores", "2", "--configfile", config]
    subprocess.run([sys.executable, *command, *options], check=True, capture_output=True)
    table = pd.read_csv(tmp_path / "results/tables/fusion.csv").set_index("row")
    reachable = json.loads((tmp_path / "results/simulated_large/reachable.json").read_text())
    print(f"\n{table[['estimate', 'ci_low', 'ci_high', 'p_adjusted', 'n_splits', 'n_seeds']].round(3)}")
    print({name: round(value, 3) for name, value in reachable.items()})
    c = table["estimate"]
    assert c["Concat"] > c["SNN (genomic)"]
    assert c["Concat"] > c["AttMIL (slides)"]
    assert c.max() < reachable["latent"]
