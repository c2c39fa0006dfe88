"""One environment or many, the same versions; and every conda environment holds what its rules import."""

import ast
import re
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[3]
SCRIPTS = ROOT / "workflow" / "scripts"
ENVIRONMENTS = sorted(path.stem for path in (ROOT / "envs").glob("*.yaml"))
PYTHON = {"python_version": "3.11", "python_full_version": "3.11.0", "sys_platform": "linux"}

# Distributions whose import name is another one.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "huggingface_hub": "huggingface-hub",
    "openslide": "openslide-python",
    "sklearn": "scikit-learn",
    "sksurv": "scikit-survival",
}
# What a package needs at run time without declaring it, or only for what we ask of it.
COMPANIONS = {
    "openslide-python": {"openslide-bin"},  # the library itself
    "pyvips": {"pyvips-binary"},
    "pandas": {"pyarrow"},  # read_table and write_table: parquet
    "scanpy": {"scikit-misc"},  # the ranking seurat_v3
    "tifffile": {"imagecodecs"},  # JPEG tiles
    "timm": {"torchvision"},
}


def pins_of_lock():
    """{name: version} for Python 3.11 on Linux, and torch's from the Makefile."""
    pins = {"torch": re.search(r"^TORCH := (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if re.match(r"\w", line):
            requirement = Requirement(line.rstrip(" \\"))
            if requirement.marker is None or requirement.marker.evaluate(PYTHON):
                pins[requirement.name] = str(requirement.specifier).removeprefix("==")
    return pins


def pins_of_environment(name):
    """{name: version} of the pip part of a conda environment."""
    dependencies = yaml.safe_load((ROOT / "envs" / f"{name}.yaml").read_text())["dependencies"]
    (pip,) = (entry["pip"] for entry in dependencies if isinstance(entry, dict))
    return dict(entry.split("==") for entry in pip)


def scripts_of_environments():
    """{environment: scripts} from the `conda:` and `script:` of every rule."""
    rules = "\n".join(path.read_text() for path in sorted((ROOT / "workflow/rules").glob("*.smk")))
    blocks = re.split(r"^(?:rule|checkpoint) ", rules, flags=re.MULTILINE)[1:]
    scripts = {}
    for block in blocks:
        script = re.search(r'"\.\./scripts/(\w+\.py)"', block)
        if script:
            environment = re.search(r'"\.\./\.\./envs/(\w+)\.yaml"', block)
            assert environment, f"a rule with {script[1]} has no conda environment"
            scripts.setdefault(environment[1], set()).add(script[1])
    return scripts


def imported_names(path):
    """Every dotted name that a file imports, at whatever depth, with the classes that configurations name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
    if path.name == "registry.py":
        yield from (f"histofuse.models.{module.stem}" for module in path.parent.glob("*.py"))


def requirements_of(scripts):
    """{distribution: a file that imports it} of scripts and of the library modules they reach."""
    needed, seen, queue = {}, set(), [SCRIPTS / script for script in scripts]
    while queue:
        path = queue.pop()
        if path in seen or not path.is_file():
            continue
        seen.add(path)
        for name in imported_names(path):
            top = name.partition(".")[0]
            if top == "histofuse":
                module = SCRIPTS.joinpath(*name.split("."))
                queue += [module.with_suffix(".py"), module / "__init__.py"]
            elif top not in sys.stdlib_module_names:
                distribution = DISTRIBUTIONS.get(top, top)
                for one in {distribution, *COMPANIONS.get(distribution, ())}:
                    needed.setdefault(one, str(path.relative_to(SCRIPTS)))
    return needed


def test_every_script_is_run_by_a_rule():
    assert set().union(*scripts_of_environments().values()) == {path.name for path in SCRIPTS.glob("*.py")}
    assert sorted(scripts_of_environments()) == ENVIRONMENTS


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_environment_holds_exactly_what_its_rules_import(name):
    needed, pins = requirements_of(scripts_of_environments()[name]), pins_of_environment(name)
    missing = {one: where for one, where in needed.items() if one not in pins}
    assert missing == {}, f"add to envs/{name}.yaml"
    assert set(pins) - set(needed) == set(), f"nothing in envs/{name}.yaml imports these"


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_environment_has_the_pins_of_the_lock(name):
    lock = pins_of_lock()
    assert pins_of_environment(name) == {one: lock.get(one) for one in pins_of_environment(name)}


def test_what_is_installed_after_an_environment_has_the_pins_of_the_lock():
    scripts = sorted((ROOT / "envs").glob("*.post-deploy.sh"))
    assert [path.name.partition(".")[0] for path in scripts] == ["embeddings"]  # the one that reads scGPT's model
    installed = re.findall(r"^pip install --no-deps (\S+)==(\S+)$", scripts[0].read_text(), re.MULTILINE)
    assert installed == [("scgpt", pins_of_lock()["scgpt"])]


def test_requirements_hold_in_the_lock():
    lock = pins_of_lock()
    for line in (ROOT / "requirements.in").read_text().splitlines():
        text = line.partition("#")[0].strip()
        if text:
            requirement = Requirement(text)
            assert requirement.name in lock, f"{requirement.name} is not locked: make lock"
            assert requirement.specifier.contains(lock[requirement.name]), f"{text} is locked otherwise: make lock"
