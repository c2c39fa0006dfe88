"""Fixtures of the workflow's tests: each runs in a temporary copy, never in the repository itself."""

import pytest
from workflow_examples import Checkout, tiny_config


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/workflow" in item.path.as_posix():
            item.add_marker(pytest.mark.workflow)


@pytest.fixture(scope="session")
def tiny_grid(tmp_path_factory):
    """The tiny grid in a copy of the workflow, run once from raw files to the report (`tiny.yaml`)."""
    checkout = Checkout(tmp_path_factory.mktemp("tiny"))
    checkout.snakemake("--configfile", checkout.write_config(tiny_config(), "tiny.yaml"))
    return checkout


@pytest.fixture(scope="session")
def untouched(tmp_path_factory):
    """A copy of the workflow in which nothing is run: for dry runs, lint and refused configurations."""
    return Checkout(tmp_path_factory.mktemp("untouched"))
