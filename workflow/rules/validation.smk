"""Refuses a wrong configuration before the first job, in one line per mistake, and fills in the defaults."""

from pathlib import Path

import yaml
from jsonschema import Draft202012Validator
from snakemake.exceptions import WorkflowError
from snakemake.utils import validate

SCHEMA = Path(workflow.basedir, "workflow", "schemas", "config.schema.yaml")


def innermost(error):
    """The errors that say what is wrong, where the schema offers alternatives: those of the alternative meant.

    A cohort has one schema per source; the one meant is the one whose `source` fits, or, without any such, none.
    """
    if error.validator == "oneOf" and not isinstance(error.instance, dict):
        return []  # that it is no entry at all is an error of its own
    if error.validator != "oneOf" or "source" not in error.instance:
        return [error]
    meant = [part for part in error.context if "source" not in part.absolute_path]
    wrong_source = {part.schema_path[0] for part in error.context if "source" in part.absolute_path}
    meant = [part for part in meant if part.schema_path[0] not in wrong_source]
    return [inner for part in meant for inner in innermost(part)] or [error]


def mistakes(value):
    """One line for each thing that the schema refuses: the key, and what is wrong with it."""
    validator = Draft202012Validator(yaml.safe_load(SCHEMA.read_text()))
    for error in sorted(validator.iter_errors(value), key=lambda e: [str(key) for key in e.absolute_path]):
        for inner in innermost(error):
            where = ": ".join(str(key) for key in inner.absolute_path) or "top level"
            if inner.validator == "additionalProperties" and isinstance(inner.schema.get("properties"), dict):
                known = ", ".join(sorted(inner.schema["properties"]))
                yield f"{where}: {inner.message}; known keys: {known}"
            elif inner.validator == "oneOf" and "source" in inner.instance:
                yield f"{where}: source: {inner.instance['source']!r} is not one of {', '.join(sources())}"
            elif inner.validator == "oneOf":
                yield f"{where}: 'source' is missing; it is one of {', '.join(sources())}"
            elif inner.validator == "anyOf" and all("required" in option for option in inner.validator_value):
                needed = [" and ".join(option["required"]) for option in inner.validator_value]
                yield f"{where}: needs {', or '.join(needed)}"
            elif inner.validator == "anyOf":
                yield f"{where}: {inner.instance!r} is not one of: {inner.schema['description']}"
            elif inner.validator == "pattern" and "propertyNames" in inner.absolute_schema_path:
                yield f"{where}: {inner.instance!r} cannot be a name: {inner.schema['description']}"
            elif "propertyNames" in inner.absolute_schema_path:
                yield f"{where}: {inner.instance!r} cannot be a name: it is no text; put it in quotes"
            else:
                yield f"{where}: {inner.message}"


def sources():
    """What a cohort's `source` can be."""
    definitions = yaml.safe_load(SCHEMA.read_text())["$defs"]
    return [entry["properties"]["source"]["const"] for name, entry in definitions.items() if name.endswith("_cohort")]


if found := list(mistakes(config)):
    raise WorkflowError("the configuration is wrong:", *(f"  {mistake}" for mistake in found))
validate(config, str(SCHEMA))
