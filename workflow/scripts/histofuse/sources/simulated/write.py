"""Write the whole cohort as a mirror of the public servers, with the manifest of its files and the truth beside it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from histofuse.io import InputError, digest, progress, write_json, write_table
from histofuse.sources.ivygap import ATLAS, image_rows
from histofuse.sources.simulated.alterations import gene_level_copy_number, masked_mutations
from histofuse.sources.simulated.clinical import PROJECT, STUDY, gdc_cases, molecular_labels
from histofuse.sources.simulated.cohort import Case, draw_cases, generator, stable_uuid
from histofuse.sources.simulated.expression import star_counts
from histofuse.sources.simulated.ivygap import (
    ARCHIVE,
    draw_tumours,
    expression_archive,
    images,
    sample_details,
    sub_block_details,
    survival_days,
    tumour_details,
)
from histofuse.sources.simulated.ivygap_images import list_of_images, write_image
from histofuse.sources.simulated.settings import Settings
from histofuse.sources.simulated.slides import MPP, blank, look_of, render
from histofuse.sources.simulated.svs import write_svs
from histofuse.sources.simulated.truth import best_reachable, truth_table

GDC = "https://api.gdc.cancer.gov"
CBIOPORTAL = "https://www.cbioportal.org/api"
ALLEN = "https://glioblastoma.alleninstitute.org/api/v2"
DAMAGES = ("truncated", "no resolution", "no tissue")
KEPT_OF_TRUNCATED = 0.55  # share of the bytes
MANIFEST_COLUMNS = ["file_id", "case_id", "kind", "filename", "url", "size", "md5", "sha256", "mpp"]


def simulate(settings: dict, directory: Path) -> None:
    """Write `<host>/<path>` files and their `manifest.tsv` under `directory`, replacing what was there.

    Beside them, for the report and never for a model: `truth.parquet` and `reachable.json` (`best_reachable`, on the
    cases whose survival the files tell).

    `settings` is the config entry (see `Settings`). The directory appears when all is written. The same settings
    give the same bytes, and a case's files do not change when more cases are asked for, but for slides that are
    damaged because the cohort has too few (see `damaged_slides`). Raises InputError for bad settings.
    """
    chosen = Settings.parse(settings)
    write = _write_ivygap if chosen.study == "ivygap" else _write_gdc
    directory = Path(directory)
    unfinished = directory.with_name(f".{directory.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)

    rows, truth, followed = write(chosen, unfinished)
    manifest = pd.DataFrame(rows, columns=MANIFEST_COLUMNS)
    write_table(manifest, unfinished / "manifest.tsv")
    write_table(truth, unfinished / "truth.parquet")
    write_json(best_reachable(truth, followed), unfinished / "reachable.json")
    counts = ", ".join(f"{number} {kind}" for kind, number in manifest["kind"].value_counts(sort=False).items())
    print(f"{chosen.study}: {len(truth)} cases, {truth['event'].sum()} deaths; files: {counts}")

    shutil.rmtree(directory, ignore_errors=True)
    unfinished.replace(directory)


def _write_gdc(settings: Settings, mirror: Path) -> tuple[list[dict], pd.DataFrame, None]:
    """Manifest rows and truth; None for the cases whose survival the files tell, because all count."""
    cases = draw_cases(settings)
    damages = damaged_slides(cases, settings.broken_slides)
    rows = list(_write_cohort_files(cases, settings, mirror))
    for case in progress(cases, "simulated cases"):
        rows.extend(_write_case_files(case, settings, damages, mirror))
    truth = truth_table(cases)
    truth["damage"] = ["; ".join(damages[s] for s in case.slides if s in damages) for case in cases]
    return rows, truth, None


def _write_ivygap(settings: Settings, mirror: Path) -> tuple[list[dict], pd.DataFrame, list[str]]:
    """Manifest rows, truth, and the tumours with days of survival, the only ones whose outcome the files tell."""
    tumours = draw_tumours(settings)
    contents = (
        ("ivygap_expression", ARCHIVE, "well_known_file_download/305873915", expression_archive(tumours, settings)),
        ("ivygap_tumors", "tumor_details.csv", "gbm/tumor_details.csv", tumour_details(tumours, settings)),
        (
            "ivygap_samples",
            "rna_seq_samples_details.csv",
            "gbm/rna_seq_samples_details.csv",
            sample_details(tumours, settings),
        ),
        (
            "ivygap_sub_blocks",
            "sub_block_details.csv",
            "gbm/sub_block_details.csv",
            sub_block_details(tumours, settings),
        ),
    )
    rows = []
    for kind, filename, address, content in contents:
        url = f"{ALLEN}/{address}"
        path = _place(url, mirror)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        rows.append(_row(stable_uuid(settings, kind), "", kind, filename, url, path))
    rows += _write_images(tumours, settings, mirror)
    followed = [tumour.case_id for tumour in tumours if survival_days(tumour) is not None]
    return rows, truth_table(tumours), followed


def _write_images(tumours: Sequence[Case], settings: Settings, mirror: Path) -> list[dict]:
    """Manifest rows of the H&E images, as the list of the images gives them; that list is left out where none are."""
    sizes = {}
    for tumour in progress(tumours, "simulated images"):
        for image in images(tumour, settings):
            path = _place(f"{ATLAS}/image_download/{image.number}", mirror)
            sizes[image] = write_image(tumour, image, settings, path)
    if not sizes:
        return []
    answer = list_of_images(sizes)
    _place(f"{ATLAS}/data/query.json", mirror).write_text(json.dumps(answer), encoding="utf-8")
    rows = []
    for row in image_rows(answer, per_sub_block=len(sizes)):
        path = _place(row["url"], mirror)
        rows.append({**row, "size": path.stat().st_size, "md5": digest(path, "md5"), "sha256": ""})
    return rows


def damaged_slides(cases: Sequence[Case], number: int) -> dict[str, str]:
    """Which slides are damaged, and how: every seventh from the fourth, then the others, by the kinds in turn.

    Of the sevenths a larger cohort damages the same; which others are taken depends on how many slides there are.
    """
    slides = [slide for case in cases for slide in case.slides]
    if number > len(slides):
        raise InputError(f"simulated.broken_slides: {number} is more than the {len(slides)} slides of the cohort")
    chosen = slides[3::7]
    chosen += [slide for slide in slides if slide not in set(chosen)]
    return {slide: DAMAGES[k % len(DAMAGES)] for k, slide in enumerate(chosen[:number])}


def _write_cohort_files(cases: Sequence[Case], settings: Settings, mirror: Path) -> Iterator[dict]:
    answers = (
        ("clinical", "cases.json", f"{GDC}/cases", gdc_cases(cases, settings)),
        (
            "molecular",
            "clinical-data.json",
            f"{CBIOPORTAL}/studies/{STUDY}/clinical-data",
            molecular_labels(cases, settings),
        ),
    )
    for kind, filename, url, answer in answers:
        path = _place(url, mirror)
        path.write_text(json.dumps(answer), encoding="utf-8")
        yield _row(stable_uuid(settings, kind), "", kind, filename, url, path)


def _write_case_files(case: Case, settings: Settings, damages: dict[str, str], mirror: Path) -> Iterator[dict]:
    def new(kind: str, name: object = "") -> tuple[str, str, Path]:
        file_id = stable_uuid(settings, case.case_id, kind, name)
        url = f"{GDC}/data/{file_id}"
        return file_id, url, _place(url, mirror)

    if case.has["expression"]:
        file_id, url, path = new("expression")
        path.write_text(star_counts(case, settings), encoding="utf-8")
        filename = f"{stable_uuid(settings, case.case_id, 'rna')}.rna_seq.augmented_star_gene_counts.tsv"
        yield _row(file_id, case.case_id, "expression", filename, url, path)
    if case.has["alterations"]:
        file_id, url, path = new("mutations")
        path.write_bytes(masked_mutations(case, settings))
        filename = f"{stable_uuid(settings, case.case_id, 'wxs')}.wxs.aliquot_ensemble_masked.maf.gz"
        yield _row(file_id, case.case_id, "mutations", filename, url, path)
        file_id, url, path = new("copy_number")
        path.write_text(gene_level_copy_number(case, settings), encoding="utf-8")
        array = stable_uuid(settings, case.case_id, "array")
        filename = f"{PROJECT}.{array}.ascat3.gene_level_copy_number.v36.tsv"
        yield _row(file_id, case.case_id, "copy_number", filename, url, path)
    rng = generator(settings, case.number, "slides")
    for slide in case.slides:
        file_id, url, path = new("slide", slide)
        _write_slide(case, slide, settings, damages.get(slide), rng.spawn(1)[0], path)
        yield _row(file_id, case.case_id, "slide", f"{slide}.svs", url, path)


def _write_slide(
    case: Case, slide: str, settings: Settings, damage: str | None, rng: np.random.Generator, path: Path
) -> None:
    if damage == "no tissue":
        image = blank(settings.slide_pixels, rng)
    else:
        image = render(look_of(case), settings.slide_pixels, rng)
    stated = {"mpp": None, "magnification": None} if damage == "no resolution" else {"mpp": MPP, "magnification": 20}
    write_svs(image, path, name=slide, **stated)
    if damage == "truncated":
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * KEPT_OF_TRUNCATED)])


def _place(url: str, mirror: Path) -> Path:
    path = mirror / url.removeprefix("https://")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _row(file_id: str, case_id: str, kind: str, filename: str, url: str, path: Path) -> dict:
    values = (file_id, case_id, kind, filename, url, path.stat().st_size, digest(path, "md5"), "", "")
    return dict(zip(MANIFEST_COLUMNS, values, strict=True))
