"""The page of all runs of a batch in a real browser: sorting, filter, links, colours, sizes."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from gpu_spots.beamtime.figures import PICTURE
from gpu_spots.beamtime.record import Records
from gpu_spots.beamtime.tables import write_tables
from gpu_spots.pictures import contrast_of, data_uri, grey_levels, png

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

BAD = "day 2/<i>run</i> #4?"
SPOTS = {"run_1": 900, "run_2": 10200, "run_10": 87, "run_11": 0}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a folder of results with four runs that are done, and one that failed."""
    out = tmp_path_factory.mktemp("results")
    image = np.arange(PICTURE**2, dtype=np.uint16).reshape(PICTURE, PICTURE)
    picture = data_uri(png(grey_levels(image, contrast_of(image)), "inverted"))
    records = Records(out)
    for i, (name, n_spots) in enumerate(SPOTS.items()):
        name = f"day 1/{name}"
        outputs = {f"{name}__spots.h5": 1, f"{name}__report.html": 1}
        figures = {"frames": 60, "spots": n_spots, "picture": picture, "response": "", "level": 7.5}
        done = {"state": "done", "kind": "laser", "figures": figures, "outputs": outputs}
        records.write({"name": name, "seconds": 1.5 * i, "host": "node7", **done})
    (out / "day 1").mkdir()
    (out / "day 1/run_2__report.html").write_text("<!doctype html><title>a report</title>")
    records.write({"name": BAD, "state": "failed", "error": "a & b: <script>stop()</script>"})
    write_tables(records)
    return out / "index.html"


def shown(browser: "Chrome") -> list[str]:
    """Names of the runs that are shown, in their order."""
    script = """return [...document.querySelectorAll("tbody tr:not([hidden]) td:nth-child(2)")]
        .map(cell => cell.firstChild.textContent.trim())"""
    return [name.removeprefix("day 1/") for name in browser.execute_script(script)]


def heading(browser: "Chrome", name: str) -> Any:
    return browser.find_element("xpath", f"//th[normalize-space()='{name}']")


def measured(browser: "Chrome", selector: str, *names: str) -> list[int]:
    """Properties of an element, such as its widths."""
    script = "const found = document.querySelector(arguments[0]);"
    script += "return arguments[1].map(name => found[name])"
    found: list[int] = browser.execute_script(script, selector, names)
    return found


def test_runs_are_sorted_by_any_column(browser: "Chrome", page: Path) -> None:
    browser.get(page.as_uri())
    assert shown(browser) == [*SPOTS, BAD]
    by_spots = sorted(SPOTS, key=SPOTS.__getitem__)
    for name, expected in (
        ("spots", [*by_spots, BAD]),  # numbers, not texts; without a value: last
        ("spots", [*by_spots[::-1], BAD]),
        ("seconds", [*SPOTS, BAD]),
        ("run", [*SPOTS, BAD]),  # run_2 before run_10
        ("run", [BAD, *list(SPOTS)[::-1]]),
        ("state", [*list(SPOTS)[::-1], BAD]),  # runs of the same state keep their order
    ):
        cell = heading(browser, name)
        cell.find_element("tag name", "button").click()
        assert shown(browser) == expected
        marked = browser.find_elements("css selector", "th[aria-sort]")
        assert [other.text for other in marked] == [name]
    assert heading(browser, "state").get_attribute("aria-sort") == "ascending"


def test_pictures_errors_and_links_are_there(browser: "Chrome", page: Path) -> None:
    browser.get(page.as_uri())
    images = browser.find_elements("css selector", "tbody img")
    sizes = [(image.size["width"], image.get_property("naturalWidth")) for image in images]
    assert sizes == [(72, PICTURE)] * len(SPOTS)
    field = browser.find_element("id", "filter")
    field.send_keys("FAILED day")
    assert shown(browser) == [BAD]
    error = browser.find_element("css selector", "tbody tr:not([hidden]) small")
    assert error.text == "a & b: <script>stop()</script>"
    field.clear()
    field.send_keys("run_2")
    assert shown(browser) == ["run_2"]
    browser.find_element("link text", "day 1/run_2").click()
    assert browser.title == "a report"


def brightness(colour: str) -> float:
    """Mean of red, green and blue of ``rgb(...)`` or ``rgba(...)``."""
    numbers = colour.partition("(")[2].rstrip(")").split(",")[:3]
    return sum(map(float, numbers)) / 3


def test_dark_pages_and_narrow_windows(
    browser: "Chrome", page: Path, prefer: Callable[..., None]
) -> None:
    for scheme in ("light", "dark"):
        prefer(scheme)
        browser.get(page.as_uri())
        back = brightness(heading(browser, "run").value_of_css_property("background-color"))
        assert (back > 200) == (scheme == "light")
        for selector in ("h1", "td.done", "td.failed", "small", "tbody a"):
            colour = browser.find_element("css selector", selector).value_of_css_property("color")
            assert abs(brightness(colour) - back) > 80, (scheme, selector)
    image = browser.find_element("css selector", "tbody img")
    assert image.value_of_css_property("filter") == "invert(1)"  # white paper would dazzle
    browser.set_window_size(500, 480)
    whole, visible = measured(browser, "html", "scrollWidth", "clientWidth")
    assert whole == visible  # the table scrolls, the page does not
    whole, visible = measured(browser, ".table", "scrollWidth", "clientWidth")
    assert whole > visible
    top = heading(browser, "run").rect["y"]
    browser.execute_script("document.querySelector('.table').scrollTo(200, 150)")
    assert measured(browser, ".table", "scrollLeft", "scrollTop") > [0, 0]
    assert heading(browser, "run").rect["y"] == top  # headings stay
