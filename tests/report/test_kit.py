"""The kit of all pages: charts are drawn, lists sort and filter, names stay text, equal values give equal bytes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import altair as alt
import jinja2
import pytest

from rfdetr_core.base.code import ROOT
from rfdetr_core.report import charts, page
from rfdetr_core.report.specs import Axis
from rfdetr_core.report.text import DASH, short
from tests.browser import Browser, Page
from tests.report import kit
from tests.report.kit import ACTUAL, NAMES, PREDICTED

DRAWN = "document.documentElement.dataset.drawn === 'yes'"
CHARTS = kit.make_charts()
CUT = "\N{HORIZONTAL ELLIPSIS}"
EMPTY = '{{% extends "page.html" %}}{{% block header %}}{{% endblock %}}{{% block main %}}{}{{% endblock %}}'
HEAT = "#charts .chart:nth-child(5) .mark-rect.layer_0_marks path"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kit.write(tmp_path_factory.mktemp("kit"))


def opened(browser: Browser, path: Path, width: int = 1280) -> Page:
    opened_page = browser.open(path, width=width)
    opened_page.wait(DRAWN)
    return opened_page


@pytest.fixture
def kit_page(browser: Browser, written: Path) -> Page:
    return opened(browser, written)


def strings(value: Any) -> Iterator[str]:
    """All texts and field names in a specification, without its data."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            if key == "values" or (key == "value" and value.get("name") == "names"):
                continue
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)
    elif isinstance(value, str):
        yield value


def contents(shown_page: Page, selector: str) -> list[str]:
    """The text of all elements that match a selector, also of SVG elements."""
    return list(shown_page.value(f"[...document.querySelectorAll({selector!r})].map((one) => one.textContent)"))


# The page in the browser.


@pytest.mark.parametrize("width", [1280, 400])
def test_every_chart_is_drawn_without_errors_and_requests(browser: Browser, written: Path, width: int) -> None:
    opened_page = opened(browser, written, width)
    for k, chart_made in enumerate(CHARTS.values(), start=1):
        chart = f"#charts .chart:nth-child({k})"
        assert (
            opened_page.value(f"document.querySelectorAll('{chart} .role-mark path, {chart} .role-mark line').length")
            > 0
        )
        assert (
            opened_page.value(f"document.querySelector('{chart} [role=img]').getAttribute('aria-label')")
            == chart_made.alt
        )
        assert len(chart_made.alt) > 20
    assert opened_page.texts("#charts .none") == ["Nothing to show."]
    assert opened_page.value("document.documentElement.scrollWidth") == width
    assert opened_page.requests() == [written.as_uri()]
    assert opened_page.complaints() == []


@pytest.mark.parametrize("width", [1280, 400])
def test_labels_of_charts_are_readable(browser: Browser, written: Path, width: int) -> None:
    opened_page = opened(browser, written, width)
    size = "(one) => parseFloat(getComputedStyle(one).fontSize)"
    assert min(opened_page.value(f"[...document.querySelectorAll('.vega text')].map({size})")) >= 11
    scale = "(one) => one.getBoundingClientRect().width / one.viewBox.baseVal.width"
    scales = opened_page.value(f"[...document.querySelectorAll('.vega svg')].map({scale})")
    assert all(abs(scale - 1) < 0.01 for scale in scales)


def test_names_are_shown_unchanged(kit_page: Page) -> None:
    for k in (3, 4, 5):
        labels = contents(kit_page, f"#charts .chart:nth-child({k}) .role-axis-label text")
        for name in NAMES:
            assert any(name == label or (label[-1] == CUT and name.startswith(label[:-1])) for label in labels), name
    assert contents(kit_page, "#charts .chart:nth-child(1) .legend bdi") == list(NAMES)
    assert set(contents(kit_page, "#the-table tbody bdi")) == set(NAMES)
    assert kit_page.value("document.querySelectorAll('img[src=x]').length") == 0
    assert kit_page.complaints() == []


def test_a_tooltip_has_the_names_and_numbers_of_a_cell(kit_page: Page) -> None:
    kit_page.click(f"{HEAT}:nth-child(4)")
    lines = kit_page.value("document.getElementById('tip').textContent").splitlines()
    assert lines == [f"actual: {NAMES[0]}", f"predicted: {NAMES[4]}", "share: 20%", "how many: 0"]
    assert kit_page.complaints() == []


def test_a_tooltip_of_a_histogram_has_the_counts_of_all_series(kit_page: Page) -> None:
    kit_page.click("#charts .chart:nth-child(6) .mark-rect path:nth-child(2)")
    lines = kit_page.value("document.getElementById('tip').textContent").splitlines()
    assert lines == ["2 to 4", f"{NAMES[0]}: 2 (33.3 %)", f"{NAMES[1]}: 5 (83.3 %)"]


def test_the_tooltip_shows_the_nearest_point_of_a_line(kit_page: Page) -> None:
    kit_page.click("#charts .chart:nth-child(1) .vega")
    lines = kit_page.value("document.getElementById('tip').textContent").splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["series", "epoch", "loss"]
    assert lines[0].partition(": ")[2] in NAMES


def test_a_click_on_a_cell_opens_its_pictures(kit_page: Page) -> None:
    kit_page.click(f"{HEAT}:nth-child(3)")  # row 0, column 3: the diagonal is another layer
    chosen = kit_page.value("[...document.querySelectorAll('#gallery select')].map((one) => one.value)")
    assert chosen == [NAMES[0], NAMES[3]]
    assert kit_page.texts("#gallery figcaption bdi") == ["9.jpg", "10.jpg"]
    kit_page.click("#charts .chart:nth-child(3) .mark-rect path:nth-child(12)")
    chosen = kit_page.value("[...document.querySelectorAll('#gallery select')].map((one) => one.value)")
    assert chosen == [NAMES[5], ""]


def test_charts_follow_the_colour_scheme(kit_page: Page) -> None:
    ink = "getComputedStyle(document.querySelector('.vega .role-axis-label text')).fill"
    before = kit_page.value(ink)
    kit_page.emulate(prefers_color_scheme="dark")
    assert kit_page.value(ink) != before


def test_a_chart_in_closed_details_fills_them_when_they_open(kit_page: Page) -> None:
    kit_page.click("details summary")
    kit_page.wait("document.querySelector('details svg')?.getBoundingClientRect().width > 600")
    assert kit_page.complaints() == []


def test_cells_without_a_number_are_last_in_both_directions(kit_page: Page) -> None:
    for reverse in (True, False):
        kit_page.click("#the-table th:nth-child(2) button")
        numbers = [float(text) for text in contents(kit_page, "#the-table td:nth-child(2)")]
        assert numbers == sorted(numbers, reverse=reverse)
    kit_page.click("#the-table .turn:last-of-type")
    assert kit_page.texts("#the-table td:nth-child(2)")[-1] == DASH
    assert kit_page.texts("#the-table .list-count") == [f"26{DASH}40 of 40 classes"]


def test_a_table_is_sorted_by_the_value_of_a_cell_not_its_text(kit_page: Page) -> None:
    kit_page.click("#the-table th:nth-child(4) button")
    sizes = [int(text.split()[0]) for text in kit_page.texts("#the-table td:nth-child(4)")]
    assert sizes == list(range(39, 14, -1))
    assert (
        kit_page.value("document.querySelector('#the-table th:nth-child(4)').getAttribute('aria-sort')") == "descending"
    )


def test_rows_are_filtered_by_values_and_text_together(kit_page: Page) -> None:
    kit_page.choose("#the-table select[aria-label='all kinds']", "error")
    assert len(kit_page.texts("#the-table tbody tr")) == 14
    kit_page.choose("#the-table select[aria-label='all classes']", NAMES[0])
    assert kit_page.texts("#the-table td:nth-child(4)") == ["0 by 0 px", "30 by 30 px"]
    kit_page.type("#the-table input", "30 BY")
    assert kit_page.texts("#the-table td:nth-child(4)") == ["30 by 30 px"]
    kit_page.click("#table > .link")
    assert [text.split()[0] for text in kit_page.texts("#the-table td:nth-child(4)")] == ["3", "13", "23", "33"]


def test_a_gallery_is_filtered_by_several_facets_and_hides_other_shapes(kit_page: Page) -> None:
    assert len(kit_page.texts("#gallery figure")) == 12
    assert kit_page.value("document.querySelectorAll('#gallery figure:first-child .box').length") == 2
    kit_page.choose(f"#gallery select[aria-label='{ACTUAL}']", NAMES[3])
    assert kit_page.texts("#gallery figcaption bdi") == [f"{k}.jpg" for k in (2, 3, 12, 13, 22, 23)]
    assert kit_page.value("document.querySelectorAll('#gallery figure:first-child .box').length") == 1
    kit_page.choose(f"#gallery select[aria-label='{PREDICTED}']", NAMES[4])
    assert kit_page.texts("#gallery figcaption bdi") == ["12.jpg", "13.jpg"]
    assert kit_page.complaints() == []


def test_a_large_picture_shows_the_parts_that_are_switched_on(kit_page: Page) -> None:
    kit_page.click("#gallery [data-part=masks]")
    kit_page.click("#gallery figure:nth-child(2) .open")
    kit_page.wait("document.querySelector('#large').open && document.querySelector('#large img').naturalWidth > 0")
    assert kit_page.texts("#large figcaption") == ["1.jpg\npicture 1"]
    size = kit_page.value("document.querySelector('#large .frame').getBoundingClientRect().toJSON()")
    assert size["width"] == pytest.approx(size["height"] * 200 / 140, rel=0.01)
    assert size["width"] > 900
    assert kit_page.value("getComputedStyle(document.querySelector('#large .mask')).display") == "none"
    assert contents(kit_page, "#large text") == [NAMES[1][:27] + CUT, NAMES[2]]
    kit_page.click("#large .close")
    assert not kit_page.value("document.querySelector('#large').open")


def test_without_scripts_all_rows_and_pictures_are_visible(browser: Browser, written: Path) -> None:
    opened_page = browser.open(written)
    opened_page._call("Emulation.setScriptExecutionDisabled", value=True)
    opened_page._call("Page.reload")
    opened_page.wait("document.readyState === 'complete' && !document.documentElement.dataset.ready")
    assert "allow scripts" in opened_page.texts("noscript, body > p")[0]
    assert sum(text != "" for text in opened_page.texts("#the-table tbody tr")) == 40
    assert sum(text != "" for text in opened_page.texts("#gallery figure")) == 30


# The written files.


@pytest.mark.parametrize("name", CHARTS)
def test_a_specification_is_valid_vega_lite_and_has_names_only_as_data(name: str) -> None:
    spec = CHARTS[name].spec
    alt.LayerChart.from_dict(dict(spec), validate=True)
    texts = set(strings(spec))
    assert not [text for text in texts for name in (*NAMES, "a.b", "y[0]") if name in text and text != "datum.x"]


def test_equal_values_give_equal_bytes_in_any_process(written: Path, tmp_path: Path) -> None:
    first = written.read_bytes()
    assert kit.write(tmp_path).read_bytes() == first
    env = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", "tests.report.kit", tmp_path], env=env, cwd=ROOT, check=True)
    assert (tmp_path / "index.html").read_bytes() == first


def test_an_undefined_name_is_an_error_and_writes_nothing(tmp_path: Path) -> None:
    template = tmp_path / "one.html"
    template.write_text(EMPTY.format("{{ nothing }}"))
    with pytest.raises(jinja2.UndefinedError, match="nothing"):
        page.write_page(tmp_path / "index.html", template, "One")
    assert not (tmp_path / "index.html").exists()


def test_a_page_without_charts_has_no_vega(tmp_path: Path) -> None:
    template = tmp_path / "one.html"
    template.write_text(EMPTY.format("{{ kit.chart(one) }}"))
    empty = charts.bars([], "a", "b", title="None", x_axis=Axis("b"))
    assert len(page.render(template, "One", one=empty)) < 40_000


def test_rows_without_a_value_are_left_out() -> None:
    rows = [{"x": 0, "y": 1.0}, {"x": 1, "y": float("nan")}, {"x": 2, "y": None}, {"x": 3, "y": 2}]
    chart = charts.line(rows, "x", "y", title="Line", x_axis=Axis("x"), y_axis=Axis("y"))
    assert [(row["x"], row["y"]) for row in chart.spec["data"]["values"]] == [(0, 1.0), (3, 2)]


def test_numbers_are_short() -> None:
    assert [short(value) for value in (1, 22.627, 0.0625, 1448.2, 16384)] == ["1", "22.6", "0.0625", "1.4k", "16k"]
