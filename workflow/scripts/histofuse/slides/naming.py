"""Slides under the names that other people gave their files."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePath

from histofuse.slides.reader import SlideError

SUFFIXES = (
    *(".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".czi", ".dcm"),
    *(".png", ".jpg", ".jpeg"),
)
# TCGA's file names carry an id behind the barcode of the slide: TCGA-06-0174-01Z-00-DX3.23b6e12e-….svs
_FILE_ID = re.compile(r"\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}(?=$|_)", re.IGNORECASE)


def slide_name(filename: str) -> str:
    """A file's name without the suffix of an image format: the slide's id."""
    name = PurePath(filename.strip()).name
    return name[: -len(PurePath(name).suffix)] if name.lower().endswith(SUFFIXES) else name


def short_name(slide_id: str) -> str:
    """A slide's id without TCGA's file id, for pictures: it need not be the only one of this name."""
    return _FILE_ID.sub("", slide_id)


class Names:
    """Foreign names of slides, to be found by a cohort's slide ids. Upper and lower case do not matter."""

    def __init__(self, names: Iterable[str]):
        self._names = set(names)
        self._whole: dict[str, list[str]] = defaultdict(list)
        self._barcode: dict[str, list[str]] = defaultdict(list)
        for name in sorted(self._names):
            self._whole[name.casefold()].append(name)
            self._barcode[_barcode(name)].append(name)

    def find(self, slide_id: str) -> str | None:
        """The name that is the slide's id, or else differs from it by TCGA's file id, which one of the two lacks.

        Returns None when there is none; raises SlideError when several names would do.
        """
        if slide_id in self._names:
            return slide_id
        whole, barcode = slide_id.casefold(), _barcode(slide_id)
        found = self._whole.get(whole) or self._whole.get(barcode) or []
        if not found and whole == barcode:
            found = self._barcode.get(barcode, [])
        if len(found) > 1:
            raise SlideError(f"its name is not clear: {', '.join(found[:3])} could all be meant")
        return found[0] if found else None


def _barcode(name: str) -> str:
    return short_name(name).casefold()
