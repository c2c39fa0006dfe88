"""config/README.md is what tools/config_readme.py makes of the schema, and the schema explains every key."""

import importlib.util
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
SCHEMA = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text())
KEYWORDS = {
    *(
        "$schema",
        "$ref",
        "$defs",
        "title",
        "description",
        "default",
        "type",
        "const",
        "enum",
        "oneOf",
        "anyOf",
        "if",
        "then",
        "else",
    ),
    *(
        "properties",
        "patternProperties",
        "additionalProperties",
        "propertyNames",
        "required",
        "minProperties",
        "items",
        "minItems",
        "maxItems",
    ),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "pattern", "format"),
}


@pytest.fixture(scope="module")
def config_readme():
    spec = importlib.util.spec_from_file_location("config_readme", ROOT / "tools/config_readme.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_is_up_to_date(config_readme):
    written = (ROOT / "config/README.md").read_text()
    assert written == config_readme.render(SCHEMA), "run: .venv/bin/python tools/config_readme.py"


def nodes(node, path=""):
    """Every schema in the schema, with where it stands."""
    yield path, node
    for group in ("properties", "patternProperties", "$defs"):
        for key, value in node.get(group, {}).items():
            yield from nodes(value, f"{path}/{key}")
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            yield from nodes(node[key], f"{path}/{key}")


def test_keywords_are_those_of_json_schema():
    """A comma in an unquoted description makes a keyword of the rest of the sentence, and nothing else notices."""
    assert {path: set(node) - KEYWORDS for path, node in nodes(SCHEMA) if set(node) - KEYWORDS} == {}


def test_every_key_is_explained(config_readme):
    """Each key has a description of its own or of the part it refers to."""
    unexplained = []
    for path, node in nodes(SCHEMA):
        for key, value in node.get("properties", {}).items():
            if not config_readme.definition(SCHEMA, value)[1].get("description"):
                unexplained.append(f"{path}/{key}")
    assert unexplained == []


def parts_named(node):
    """The parts of the schema that something refers to."""
    if isinstance(node, list):
        return set().union(*map(parts_named, node))
    if not isinstance(node, dict):
        return set()
    own = {node["$ref"].rpartition("/")[2]} if "$ref" in node else set()
    return own.union(*map(parts_named, node.values()))


def test_every_part_is_used():
    assert set(SCHEMA["$defs"]) - parts_named(SCHEMA) == set()


def test_objects_refuse_unknown_keys():
    """`additionalProperties` is said everywhere but for the keywords of a model's class."""
    open_objects = [
        path for path, node in nodes(SCHEMA) if node.get("type") == "object" and "additionalProperties" not in node
    ]
    assert open_objects == ["/cohorts/additionalProperties", "/model/params"]
