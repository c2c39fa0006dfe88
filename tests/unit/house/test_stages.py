"""Stages meet in files, not in imports; models and training run where there is little beside torch; a job sees a GPU
only if its rule asked for one."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LIBRARY = ROOT / "workflow" / "scripts" / "histofuse"
STAGES = sorted(path.name for path in LIBRARY.iterdir() if (path / "__init__.py").is_file())
MODULES = sorted(path.relative_to(LIBRARY.parent).as_posix() for path in LIBRARY.rglob("*.py"))
MAY_IMPORT = {"slides": {"models"}, "training": {"models", "evaluation"}, "paper": {"evaluation"}}
SHARED = {"io", "bags"}
RULES = sorted((ROOT / "workflow" / "rules").glob("*.smk"))
ON_GPUS = ["encode_regions", "encode_slides", "embed_bank", "embed_cases", "gene_importance", "interpolate"]
ON_GPUS += ["predict_external", "sampling_points", "tile_scores", "train", "tune", "vectors"]
BARE = ["torch", "numpy", "pandas", "pyarrow", "safetensors"]  # what a GPU image holds


def imports(path):
    """(dotted name, whether at module level) of every import in a file."""
    tree = ast.parse(path.read_text())
    inside = {id(node) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for node in ast.walk(f)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) not in inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written with full names"
            yield node.module, id(node) not in inside
            if node.module == "histofuse":
                yield from ((f"histofuse.{alias.name}", id(node) not in inside) for alias in node.names)


def test_the_stages_are_those_of_the_design():
    assert STAGES == ["cohort", "evaluation", "genomics", "models", "paper", "slides", "sources", "training"]


@pytest.mark.parametrize("module", MODULES)
def test_no_stage_imports_another(module):
    stage = module.split("/")[1]
    allowed = {stage, *SHARED, *MAY_IMPORT.get(stage, ())} if stage in STAGES else SHARED
    reached = {name.split(".")[1] for name, _ in imports(LIBRARY.parent / module) if name.startswith("histofuse.")}
    assert reached <= allowed


@pytest.mark.parametrize("module", [name for name in MODULES if name.split("/")[1] in ("models", "training")])
def test_models_and_training_import_little(module):
    at_the_top = {name.partition(".")[0] for name, top in imports(LIBRARY.parent / module) if top}
    assert at_the_top - set(sys.stdlib_module_names) <= {*BARE, "histofuse"}


# Imports the modules named on the command line while every distribution is hidden that a bare image lacks: all but
# BARE and what these require.
IMPORT_BARE = """
import importlib
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from packaging.requirements import Requirement

bare, queue = set(), sys.argv[1].split(",")
while queue:
    name = queue.pop().lower().replace("_", "-")
    if name not in bare:
        bare.add(name)
        try:
            required = [Requirement(text) for text in requires(name) or ()]
        except PackageNotFoundError:
            continue
        queue += [r.name for r in required if r.marker is None or r.marker.evaluate({"extra": ""})]

def hidden(distributions):
    return not any(name.lower().replace("_", "-") in bare for name in distributions)

absent = {name for name, distributions in packages_distributions().items() if hidden(distributions)}

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

for name in [name for name in sys.modules if name.partition(".")[0] in absent]:
    del sys.modules[name]
sys.meta_path.insert(0, Hide())
for name in sys.argv[2:]:
    importlib.import_module(name)
print(sorted(absent & {"sklearn", "sksurv", "scipy", "tqdm", "snakemake"}))
"""


def run_bare(*modules):
    command = [sys.executable, "-c", IMPORT_BARE, ",".join(BARE), *modules]
    environment = {"PYTHONPATH": str(LIBRARY.parent), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_models_and_training_import_in_a_bare_image():
    chosen = [name for name in MODULES if name.split("/")[1] in ("models", "training", "io.py")]
    done = run_bare(*(name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in chosen))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['scipy', 'sklearn', 'sksurv', 'snakemake', 'tqdm']"


def test_the_bare_image_hides_what_it_should():
    done = run_bare("histofuse.evaluation.statistics")  # needs scipy
    assert "No module named 'scipy'" in done.stderr


def test_rules_ask_for_gpus_where_their_scripts_may_take_one():
    rules = [rule for path in RULES for rule in re.split(r"^rule ", path.read_text(), flags=re.MULTILINE)[1:]]
    asking = {re.search(r"scripts/(\w+)\.py", rule)[1] for rule in rules if re.search(r"^ +gpu=", rule, re.MULTILINE)}
    assert asking == set(ON_GPUS)


@pytest.mark.parametrize("script", ON_GPUS)
def test_a_job_that_asked_for_no_gpu_is_kept_off_them(script):
    """Before it loads a model, a script says how many GPUs its job asked for."""
    calls = [
        ast.unparse(node.value)
        for node in ast.walk(ast.parse((LIBRARY.parent / f"{script}.py").read_text()))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ]
    assert calls[calls.index("start_log(snakemake.log[0])") + 1] == "hide_gpus(snakemake.resources.gpu)"


def test_importing_does_not_look_for_a_gpu():
    """Scripts import first and hide the GPUs then: whether there are any is asked in functions only."""
    for module in MODULES:
        tree = ast.parse((LIBRARY.parent / module).read_text())
        inside = {id(node) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for node in ast.walk(f)}
        asked = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and "cuda" in ast.unparse(node.func)]
        assert all(id(node) in inside for node in asked), module
