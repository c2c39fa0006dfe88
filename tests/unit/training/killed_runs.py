"""Runs that tests kill on the way."""

import pytest

from histofuse.training import loop


class Killed(Exception):
    pass


def kill_after(epochs, monkeypatch, run):
    """Call `run`, which keeps its state after every epoch and dies once that of this many epochs is kept."""
    save = loop._save

    def save_then_die(path, digest, model, optimiser, history, *rest):
        save(path, digest, model, optimiser, history, *rest)
        if len(history) == epochs:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_pause", lambda writing: 0)
        patch.setattr(loop, "_save", save_then_die)
        with pytest.raises(Killed):
            run()
