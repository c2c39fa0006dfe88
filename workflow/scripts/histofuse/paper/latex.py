"""Any text for pdflatex, in ASCII."""

from __future__ import annotations

import unicodedata

SIGNS = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "|": r"\textbar{}",
    **{sign: "\\" + sign for sign in "&%$#_{}"},
    **{sign: f"{{{sign}}}" for sign in "[]"},  # after \\ a bracket would be its argument
    **{"<": "$<$", ">": "$>$", "≥": r"$\geq$", "≤": r"$\leq$", "≈": r"$\approx$", "≠": r"$\neq$"},
    **{"±": r"$\pm$", "×": r"$\times$", "·": r"$\cdot$", "−": "$-$", "√": r"$\surd$", "∞": r"$\infty$"},
    **{"→": r"$\rightarrow$", "←": r"$\leftarrow$", "↔": r"$\leftrightarrow$", "•": r"$\bullet$", "°": r"$^\circ$"},
    **{"¹": "$^1$", "²": "$^2$", "³": "$^3$", "½": r"$\frac{1}{2}$", "µ": r"$\mu$", "§": r"\S{}", "…": r"\ldots{}"},
    **{
        "–": "--",
        "—": "---",
        "‘": "`",
        "’": "'",
        "“": "``",
        "”": "''",
        "\u00a0": "~",
        "\u2009": r"\,",
        "\u202f": r"\,",
    },
    **{
        "ß": r"\ss{}",
        "æ": r"\ae{}",
        "œ": r"\oe{}",
        "ø": r"\o{}",
        "Ø": r"\O{}",
        "ł": r"\l{}",
        "Ł": r"\L{}",
        "ı": r"\i{}",
    },
}
LOWER = (
    "alpha beta gamma delta varepsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho varsigma sigma tau "
    "upsilon phi chi psi omega"
)
SIGNS |= {chr(ord("α") + place): f"$\\{name}$" for place, name in enumerate(LOWER.split())}
UPPER = "Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega"
SIGNS |= {sign: f"$\\{name}$" for sign, name in zip("ΓΔΘΛΞΠΣΥΦΨΩ", UPPER.split(), strict=True)}
SIGNS |= dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΧο", "ABEZHIKMNOPTXo", strict=True))  # those that LaTeX has no command for
ACCENTS = dict(
    zip("\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327", "`'^~=u.\"rHvc", strict=True)
)


def escape(text: str) -> str:
    """The text with what LaTeX takes for a command escaped and what it does not know, as α or é, as a command.

    A sign that has none becomes its number, as [U+2603]: it is to be seen in print, and the rest is typeset.
    """
    return "".join(_escape(sign) for sign in unicodedata.normalize("NFC", text))


def _escape(sign: str) -> str:
    if sign in SIGNS or sign.isascii():
        return SIGNS.get(sign, sign)
    letter, *marks = unicodedata.normalize("NFD", sign)
    if not letter.isascii() or any(mark not in ACCENTS for mark in marks):
        return f"{{[}}U+{ord(sign):04X}{{]}}"
    for mark in marks:
        letter = f"\\{ACCENTS[mark]}{{{letter}}}"
    return letter
