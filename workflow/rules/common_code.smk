"""The code that a job executes: digests of it, by which it is run again, and the classes of models."""

import ast
import functools
import hashlib
from pathlib import Path


def imports(path):
    """Yield the dotted names that a Python file imports; relative ones lead nowhere beside a configuration."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def executed(path):
    """What of a Python file is executed, as text: its syntax tree without comments and docstrings."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        if documented and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    return ast.dump(tree)


@functools.cache  # parsing takes longer than most things asked of a job, and hundreds of jobs ask for the same
def code(script, *more):
    """Digest of what a script, the library modules it imports (and more files) and their data do.

    Snakemake is blind to edits in imported modules, and would rerun for an edited comment in the script. As a
    parameter, this digest reruns a job when, and only when, the code that it executes has changed.
    """
    files, queue = set(), [SCRIPTS / script, *map(Path, more)]
    while queue:
        path = queue.pop()
        if path.is_file() and path not in files:
            files.add(path)
            modules = [SCRIPTS.joinpath(*name.split(".")) for name in imports(path)]
            queue += [m.with_suffix(".py") for m in modules] + [m / "__init__.py" for m in modules]
    texts = [executed(path) for path in sorted(files)]
    data = [path.with_suffix(".tsv") for path in sorted(files)]  # a module's data lies beside it under its name
    texts += [path.read_text() for path in data if path.is_file()]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def file_of_class(name):
    """The source of a class `module:Name`: in the library, or a user's own file beside the configuration, or None."""
    parts = name.partition(":")[0].split(".")
    paths = [folder.joinpath(*parts).with_suffix(".py") for folder in (SCRIPTS, *CONFIG_FOLDERS)]
    return next((path for path in paths if path.is_file()), None)


def class_file(model):
    """The source of a model's class."""
    name = MODELS[model]["class"]
    path = file_of_class(name)
    if path is None:
        missing = name.partition(":")[0].replace(".", "/")
        raise WorkflowError(f"models: {model}: class: no file {missing}.py beside the configuration")
    return path


def class_files(model):
    """{class: its source} of a model: those that its parameters name, where they have one here, and its own last."""
    inner = {name: file_of_class(name) for name in sorted(named(MODELS[model].get("params", {}), "class"))}
    own = {MODELS[model]["class"]: class_file(model)}
    return {name: str(path) for name, path in (inner | own).items() if path}


def offers(path, name, method):
    """Whether a class has a method, of its own or from a base that is imported by name; nothing is executed."""
    tree = ast.parse(Path(path).read_text())
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    origins = {
        alias.asname or alias.name: (SCRIPTS.joinpath(*node.module.split(".")).with_suffix(".py"), alias.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and not node.level
        for alias in node.names
    }
    if name not in classes:
        return name in origins and origins[name][0].is_file() and offers(*origins[name], method)
    own = any(isinstance(node, ast.FunctionDef) and node.name == method for node in classes[name].body)
    bases = [base.id for base in classes[name].bases if isinstance(base, ast.Name)]
    return own or any(offers(path, base, method) for base in bases)
