"""What the tracked files must not say, and links that must lead somewhere."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MARKERS = "|".join(("TO" + "DO", "FIX" + "ME"))
FORBIDDEN = {
    "a path of one machine": r"(?<![\w.~$}])/(?:work|root|home)/(?!runner/)\w",
    "the host of a package registry": "|".join(
        (
            r"pypi\.(?:org|io)",
            r"python" + r"hosted\.org",
            r"(?:conda|repo)\.ana" + r"conda\.",
            r"download\.py" + r"torch",
        )
    ),
    "something left undone": rf"\b(?:{MARKERS})\b",
}


def tracked_files():
    """Paths of all tracked text files; none where there is no git (an unpacked archive)."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def texts():
    files = tracked_files()
    if not files:
        pytest.skip("not a git checkout")
    found = {}
    for path in files:
        content = path.read_bytes()
        if b"\0" not in content:
            found[path.relative_to(ROOT).as_posix()] = content.decode("utf-8")
    return found


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_holds(texts, what):
    pattern = re.compile(FORBIDDEN[what])
    found = [
        f"{name}:{number}: {line.strip()[:120]}"
        for name, text in texts.items()
        if pattern.search(text) and name != "tests/unit/house/test_text.py"
        for number, line in enumerate(text.splitlines(), start=1)
        if pattern.search(line)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("a path of one machine", "read /work" + "/main/file"),
        ("the host of a package registry", "https://py" + "pi.org/simple"),
        ("something left undone", "# TO" + "DO later"),
    ],
)
def test_the_patterns_find_something(what, text):
    assert re.search(FORBIDDEN[what], text)


def test_relative_links_lead_somewhere(texts):
    dead = []
    for name, text in texts.items():
        if not name.endswith(".md"):
            continue
        for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
            target, _, anchor = link.partition("#")
            if "://" in link or link.startswith("mailto:"):
                continue
            path = (ROOT / name).parent / target if target else ROOT / name
            if not path.exists() or (anchor and anchor not in anchors(path)):
                dead.append(f"{name}: {link}")
    assert dead == []


def anchors(path):
    """The anchors that the headings of a Markdown file get."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
