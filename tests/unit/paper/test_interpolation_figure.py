"""The figure of walks between cell types: what it draws, and that it says which column is missing."""

import numpy as np
import pandas as pd
import pytest

from histofuse.io import InputError
from histofuse.paper.interpolation import interpolation_figure
from histofuse.paper.style import save_figure


def distances():
    weight = np.linspace(0, 1, 5)
    frames = []
    for space, bend in (("scGPT", 0.5), ("mixup", 1.0)):
        for pair in ("neuron → microglia", "podocyte → T cell"):
            middle = weight**bend
            columns = {"weight": weight, "median": middle, "low": 0.9 * middle, "high": 1.1 * middle}
            frames.append(pd.DataFrame({"pair": pair, "space": space, **columns}))
    return pd.concat(frames, ignore_index=True)


def test_every_pair_has_a_panel_and_every_space_a_line():
    figure = interpolation_figure(distances(), "scgpt (simulated cells)")
    assert [axes.get_title() for axes in figure.axes] == ["neuron →\nmicroglia", "podocyte →\nT cell"]
    for axes in figure.axes:
        lines = {line.get_label(): line for line in axes.get_lines()}
        assert list(lines) == ["straight", "scGPT", "mixup"]
        np.testing.assert_allclose(lines["scGPT"].get_ydata(), np.linspace(0, 1, 5) ** 0.5)
        np.testing.assert_allclose(lines["mixup"].get_ydata(), lines["mixup"].get_xdata())


def test_one_pair_is_enough_and_files_are_the_same_every_time(tmp_path):
    one = distances().query("pair == 'neuron → microglia'")
    for name in ("a", "b"):
        save_figure(interpolation_figure(one, "scgpt"), tmp_path / f"{name}.svg", tmp_path / f"{name}.png")
    for suffix in ("svg", "png"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_missing_columns_are_named():
    with pytest.raises(InputError, match=r"lack the column\(s\) low, high"):
        interpolation_figure(distances().drop(columns=["low", "high"]), "")
