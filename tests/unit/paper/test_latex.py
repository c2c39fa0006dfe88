"""Text for pdflatex: every sign as something that it takes."""

from pathlib import Path

import pytest
import yaml

from histofuse.paper.latex import SIGNS, escape

CONFIG = Path(__file__).parents[3] / "config"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("KS-Fusion (α = 0.5)", r"KS-Fusion ($\alpha$ = 0.5)"),
        ("β, Δ, Ω, ς, σ, ω, Α", r"$\beta$, $\Delta$, $\Omega$, $\varsigma$, $\sigma$, $\omega$, A"),
        ("0.5 µm/px, ±3, 6 × 6, 80 %", r"0.5 $\mu$m/px, $\pm$3, 6 $\times$ 6, 80 \%"),
        ("a → b – c", r"a $\rightarrow$ b -- c"),
        ("Müller, Erdős, façade, Å", r"M\"{u}ller, Erd\H{o}s, fa\c{c}ade, \r{A}"),
        ("u\u0308", r"\"{u}"),
        ("[1] a_b|c", r"{[}1{]} a\_b\textbar{}c"),
        ("☃", "{[}U+2603{]}"),
    ],
)
def test_by_hand(text, expected):
    assert escape(text) == expected


def test_commands_are_ascii_and_end_before_the_next_letter():
    for sign, command in SIGNS.items():
        assert command.isascii(), sign
        assert not (command.startswith("\\") and command[-1].isalpha()), sign


def texts(entry):
    """All texts of a configuration, keys among them."""
    if isinstance(entry, dict):
        return [text for item in entry.items() for part in item for text in texts(part)]
    if isinstance(entry, list):
        return [text for part in entry for text in texts(part)]
    return [entry] if isinstance(entry, str) else []


@pytest.mark.parametrize("path", sorted(CONFIG.glob("*.yaml")), ids=lambda path: path.stem)
def test_everything_that_the_shipped_configurations_show_can_be_typeset(path):
    found = texts(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert found
    for text in found:
        assert escape(text).isascii()
        assert "U+" not in escape(text), text
