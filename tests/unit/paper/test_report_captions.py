"""Captions of Snakemake's own report (`snakemake --report`): each is used, and each that is named is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_captions_and_rules_belong_together():
    files = [ROOT / "Snakefile", *sorted((ROOT / "workflow/rules").glob("*.smk"))]
    named = {name for file in files for name in re.findall(r"report/(\w+\.rst)", file.read_text(encoding="utf-8"))}
    assert named == {path.name for path in (ROOT / "workflow/report").glob("*.rst")}
