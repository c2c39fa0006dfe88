"""Write config/README.md from the schema of the configuration.

python tools/config_readme.py
"""

from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = ROOT / "workflow" / "schemas" / "config.schema.yaml"
README = ROOT / "config" / "README.md"

INTRODUCTION = """\
# Configuration

Written by `python tools/config_readme.py` from [config.schema.yaml](../workflow/schemas/config.schema.yaml), which
every configuration is checked against before the first job. Unknown keys and wrong types are errors that name the key.

A configuration consists of **named entries** that refer to each other by name: a table has rows, a row names a cohort,
a task, a protocol and a model, a model names the slide features it reads. Names are free, but for
slashes, blanks and braces; they become folders under `results/`. Only what a table asks for is run.

- [config.yaml](config.yaml) is the demo. It is read when no other configuration is given.
- `--configfile my.yaml` **stands alone**: nothing of the demo mixes into it.
- [models.yaml](models.yaml) is always there. An entry of the same name in a configuration changes it, key by key.
- A model entry that **`extends`** another inherits every key that it does not give itself, nested keys included, so an
  ablation is a short entry of its own. A list is replaced as a whole.
- **`mirror`** names a folder or an http(s) host laid out as `<host>/<path>`. A file with the public address
  `https://example.org/a/b.zip` is then read from `<mirror>/example.org/a/b.zip` and nowhere else, and its checksum is
  verified all the same. On the command line: `--config mirror=FOLDER`.
- A model of your own is an entry with `class: my_module:MyModel` and the file `my_module.py` beside the configuration.

Changing an entry repeats the runs that depend on it and no others.

In the tables, a key with dots lies inside another one and `<name>` stands for a name of your choice. *Needed* means
that there is no default; where a default is not the schema's own but the code's, the last column says it.
"""


def definition(schema, node):
    """The name and content of what a node refers to, or None and the node itself."""
    name = node.get("$ref", "").rpartition("/")[2]
    return (name, schema["$defs"][name] | {k: v for k, v in node.items() if k != "$ref"}) if name else (None, node)


def is_part(node):
    """Whether a definition has keys of its own and therefore a table of its own."""
    return node.get("type") == "object" and "properties" in node


def type_of(schema, node):
    """What a value can be, in words."""
    name, node = definition(schema, node)
    if name and is_part(node):
        return f"[{name}](#{name})"
    if "const" in node:
        return f"`{node['const']}`"
    if "enum" in node:
        return "one of " + ", ".join(f"`{value}`" for value in node["enum"])
    if "if" in node and "else" in node:
        return f"{type_of(schema, node['then'])} or {type_of(schema, node['else'])}"
    if "anyOf" in node:
        return " or ".join(type_of(schema, option) for option in node["anyOf"])
    kinds = node["type"] if isinstance(node["type"], list) else [node["type"]]
    return " or ".join(of_kind(schema, node, kind) for kind in kinds)


def of_kind(schema, node, kind):
    if kind == "array":
        return "list of " + type_of(schema, node["items"]) if "items" in node else "list"
    if kind == "object":
        values = node.get("additionalProperties")
        if isinstance(values, dict):
            return "name: " + type_of(schema, values)
        return "the keys below" if "properties" in node else "any keys"
    if kind in ("integer", "number"):
        signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
        return ", ".join([kind, *(f"{sign} {node[key]}" for key, sign in signs.items() if key in node)]).replace(
            ",", "", 1
        )
    return {"boolean": "true or false", "string": "text"}.get(kind, kind)


def default_of(node, needed):
    if needed:
        return "*needed*"
    if "default" not in node:
        return ""
    return f"`{yaml.safe_dump(node['default'], default_flow_style=True).splitlines()[0]}`"


def keys_of(schema, node, prefix="", needed=()):
    """Yield (key, type, default, meaning) for each key of an object, with those of its inner objects after it."""
    patterns = {
        key.strip("^$").replace("(_.*)?", "[_name]"): value for key, value in node.get("patternProperties", {}).items()
    }
    for key, value in (node.get("properties", {}) | patterns).items():
        name, inner = definition(schema, value)
        yield prefix + key, type_of(schema, value), default_of(inner, key in node.get("required", [])), inner
        if name is None:
            yield from keys_of(schema, inner, f"{prefix}{key}.")
            values = inner.get("additionalProperties")
            if isinstance(values, dict):
                yield from keys_of(schema, values, f"{prefix}{key}.<name>.")


def table(schema, node):
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, kind, default, inner in keys_of(schema, node):
        cells = (f"`{key}`", kind, default, sentence(inner.get("description", "")))
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def sentence(text):
    """A description with one full stop, whether or not the schema wrote it."""
    text = " ".join(text.split())
    return text if not text or text.endswith((".", "?")) else text + "."


def render(schema):
    """The whole file."""
    blocks = [INTRODUCTION.rstrip()]
    top = {key: value for key, value in schema["properties"].items() if "additionalProperties" not in value}
    blocks += ["## Top level", table(schema, {"properties": top})]
    shown = set()
    for section, value in schema["properties"].items():
        if section in top:
            continue
        blocks += [f"## {section}", sentence(value["description"])]
        entry = value["additionalProperties"]
        for option in entry.get("oneOf", [entry]):
            name, content = definition(schema, option)
            shown.add(name)
            if "oneOf" in entry:
                source = content["properties"]["source"]
                blocks.append(f"### source: {source['const']}")
            blocks.append(table(schema, content))
    blocks += ["## Parts", "Used by several entries above."]
    for name, content in schema["$defs"].items():
        if name not in shown and is_part(content):
            blocks += [f"### {name}", sentence(content["description"]), table(schema, content)]
    return "\n\n".join(blocks) + "\n"


if __name__ == "__main__":
    README.write_text(render(yaml.safe_load(SCHEMA.read_text())), encoding="utf-8")
