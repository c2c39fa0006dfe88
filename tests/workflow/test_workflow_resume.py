"""A run that was killed in the middle of training goes on where it was, to the same bytes."""

import os
import re
import signal
import subprocess
import time

import pytest
from workflow_examples import tiny_config


@pytest.fixture(scope="module")
def long_training(tiny_grid):
    """The tiny grid with models that train for seconds, so that they can be caught in the middle."""
    config = tiny_config()
    config["models"]["snn_long"] = {"extends": "snn_genomic", "training": {"epochs": 10000}}
    config["models"]["concat_long"] = {"extends": "concat_short", "training": {"epochs": 1500}}
    tiny_grid.write_config(config, "long.yaml")
    return tiny_grid


def kill_in_the_middle_of_training(checkout, target, checkpoint, meanwhile=lambda: None, states=3):
    """Start snakemake in a process group of its own and SIGKILL all of it once the checkpoint has changed a few times.

    The group holds the script's process as well, as a machine that loses power does. `meanwhile` is called before the
    kill, with the run alive.
    """
    seen = set()
    with (checkout / "killed.log").open("w") as log:
        started = subprocess.Popen(
            checkout.command(target, "--configfile", "long.yaml"),
            cwd=checkout.folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            give_up = time.monotonic() + 120
            while len(seen) < states:
                assert started.poll() is None, (checkout / "killed.log").read_text()
                assert time.monotonic() < give_up, "training did not begin"
                time.sleep(0.01)
                if checkpoint.exists():
                    seen.add(checkpoint.stat().st_mtime_ns)
            meanwhile()
        finally:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()
    wait_until_still(checkpoint)


def wait_until_still(checkpoint):
    before = None
    while before != (before := checkpoint.stat().st_mtime_ns):
        time.sleep(0.5)


@pytest.mark.parametrize("model", ["snn_long", "concat_long"])
def test_killed_training_goes_on_to_the_same_bytes(long_training, model):
    folder = f"tiny/{{}}survival/mccv2/{model}/split0/seed0"
    target = f"results/{folder.format('runs/')}/predictions.parquet"
    predictions = long_training / target
    checkpoint = long_training / f"resources/checkpoints/{folder.format('')}.pt"
    log = long_training / f"logs/{folder.format('runs/')}.log"
    run = (target, "--configfile", "long.yaml")

    # While the first run lives its lock holds; what it left when it was killed does not stop the next start.
    def a_second_run_is_refused():
        assert "--unlock" in long_training.refused(*run)

    meanwhile = a_second_run_is_refused if model == "snn_long" else lambda: None
    kill_in_the_middle_of_training(long_training, target, checkpoint, meanwhile)
    assert checkpoint.exists()
    assert not predictions.exists()

    long_training.snakemake(*run)
    went_on = re.search(r"going on after epoch (\d+)", log.read_text())
    assert went_on
    assert int(went_on[1]) > 0
    assert not checkpoint.exists()
    resumed = predictions.read_bytes()

    long_training.snakemake(*run, "--forcerun", "train")
    assert "going on after epoch" not in log.read_text()
    assert predictions.read_bytes() == resumed
