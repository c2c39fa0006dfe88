"""The report page: complete, self-contained, escaped."""

import base64
from html.parser import HTMLParser

import pandas as pd
import pytest
from paper_examples import ENTRY, MISSING, PUBLISHED, metrics

from histofuse.io import InputError
from histofuse.paper.render import lay_out, to_html
from histofuse.paper.report import Report, excluded_cases, excluded_slides, package_versions, to_page
from histofuse.paper.tables import build_table, summarise_rows

SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><circle r="4"/></svg>'


class Page(HTMLParser):
    """Checks that tags nest, and collects the addresses, headings and texts of a page."""

    VOID = ("meta", "img", "br")

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.texts, self.tags = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture
def report(tmp_path):
    figure = tmp_path / "km.svg"
    figure.write_text(SVG)
    slides = pd.DataFrame(
        {
            "slide_id": ["s1", "s2", "s3", "s4"],
            "status": ["used", "excluded", "used", "used"],
            "reason": ["", "no magnification <mpp>", "", ""],
            "n_tiles": pd.array([20, 0, 40, 50], "Int64"),
            "stain": ["vahadane", "", "none", "vahadane"],
            "stain_reason": ["", "", "one stain < two", ""],
            "tissue_fraction": [0.2, None, 0.4, 0.3],
            "pen_fraction": [0.0, None, 0.05, 0.04],
        }
    )
    foreign = slides[["slide_id", "status", "reason", "n_tiles"]].assign(encoder_share=0.97)
    aside, used = excluded_slides(slides, "glioma")
    cases = pd.DataFrame({"case_id": ["TCGA-1", "TCGA-2"], "reason": ["no expression", "no expression"]})
    table = build_table(ENTRY, summarise_rows(ENTRY, metrics()), PUBLISHED, MISSING, "main")
    return Report(
        title="histofuse & co",
        tables=[to_html(lay_out(table), ENTRY["title"])],
        figures=[(figure, 'Survival of "SNN"')],
        slides=[("glioma, resnet", slides), ("glioma, foreign", foreign)],
        heatmaps=[(figure, "Where AttMIL looks")],
        sheets=[(figure, "All slides of glioma")],
        excluded=pd.concat([aside, excluded_cases(cases, "glioma, survival")]),
        used={("glioma", "slide"): used, ("glioma, survival", "case"): 98},
        reachable={"simulated_glioma": {"latent": 0.8512, "both": 0.8}},
        filters=[("glioma", pd.DataFrame({"group": ["tumour"], "exclusive": [59], "unknown": [""]}))],
        smoothings=[("scgpt", pd.DataFrame({"smoothing": ["mixup", "chance"], "pearson": [0.83571, None]}))],
        tunings=[("Survival, tuned", pd.DataFrame({"row": ["SNN"], "metric, chosen settings": [0.71234]}))],
        provenance={"Configuration": "sha256 1234"},
    )


def test_genes_and_smoothings_are_shown_with_what_their_columns_mean(report):
    text = " ".join(Page(to_page(report)).texts)
    assert "glioma: genes of each group" in text
    assert "what each selection keeps" in text
    assert "scgpt: mixtures and single cells of held-out donors" in text
    assert "0.836" in text
    assert "nan" not in text.split()


def test_how_rows_were_tuned_is_shown_under_the_title_of_their_table(report):
    text = " ".join(Page(to_page(report)).texts)
    assert "Survival, tuned" in text
    assert "metric, chosen settings" in text
    assert "0.712" in text
    assert "promises more than test cases will keep" in text


def test_everything_is_on_the_page(report):
    page = Page(to_page(report))
    text = " ".join(page.texts)
    for expected in ("histofuse & co", "no magnification <mpp>", "3 used", "1 set aside", "98 used", "2 set aside"):
        assert expected in text
    for expected in ("TCGA-1", "TCGA-2", "s2", "0.851", "sha256 1234", 'Survival of "SNN"', "0.848", MISSING["Ours"]):
        assert expected in text


def cells(page, first):
    """The texts of the line of a table that begins with `first`, and of its header."""
    texts = [text for text in page.texts if text.strip()]
    header = texts.index("Slides used") - 1
    line = texts.index(first, header)
    return dict(zip(texts[header:line], texts[line:]))


def test_slides_are_counted_with_their_stains_and_quality(report):
    page = Page(to_page(report))
    line = cells(page, "glioma, resnet")
    assert line == {
        "Cohort, features": "glioma, resnet",
        "Slides used": "3 of 4",
        "Tiles": "40 (20 to 50)",
        "Stains": "vahadane 2, none 1",
        "Tissue": "30.0 %",
        "Pen": "3.0 %",
        "Encoder": "–",
    }
    assert "one stain < two" in page.texts
    assert {"Where AttMIL looks", "All slides of glioma"} <= set(page.texts)


def test_a_table_of_slides_may_lack_stains_and_quality(report):
    report.slides = report.slides[1:]
    page = Page(to_page(report))
    line = cells(page, "glioma, foreign")
    assert (line["Slides used"], line["Stains"], line["Encoder"]) == ("3 of 4", "–", "97.0 %")
    assert not {"Tissue", "Pen", "Stains not normalised as asked for"} & set(page.texts)


def test_the_page_needs_nothing_beside_it(report):
    page = Page(to_page(report))
    anchors = [address for address in page.addresses if address.startswith("#")]
    data = [address for address in page.addresses if address.startswith("data:")]
    assert sorted(anchors + data) == sorted(page.addresses)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert [base64.b64decode(address.split(",")[1]).decode() for address in data] == [SVG] * 3


def test_every_link_leads_somewhere(report):
    text = to_page(report)
    for address in Page(text).addresses:
        if address.startswith("#"):
            assert f'id="{address[1:]}"' in text


def test_an_empty_report_has_no_empty_sections():
    page = Page(to_page(Report(title="Nothing")))
    assert "h2" not in page.tags


def test_figures_of_another_kind_are_refused(tmp_path):
    (tmp_path / "figure.pdf").write_bytes(b"%PDF")
    with pytest.raises(InputError, match=r"figure\.pdf"):
        to_page(Report(title="t", figures=[(tmp_path / "figure.pdf", "")]))


def test_versions_of_installed_packages_only():
    versions = package_versions(("numpy", "a-package-that-is-not-there"))
    assert list(versions) == ["numpy"]
