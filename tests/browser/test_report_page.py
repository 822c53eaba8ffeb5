"""A report in a real browser: from the disk, without a network, in both colours, on paper."""

import base64
import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest

import gpu_spots
from factories.reports import HOSTILE, spots_of

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement

Prefer = Callable[..., None]
CHART = "#chart-spots_per_frame"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of a laser run whose file has hostile text."""
    spots = spots_of(tmp_path_factory.mktemp("pages"), "sound")
    with h5py.File(spots, "r+") as file:
        for name in ("command_line", "version", "warnings", "method"):
            file["info"].attrs[name] = HOSTILE
        file["lauecollect"].create_dataset("<img src=x>", data=np.array([HOSTILE.encode()] * 48))
    return gpu_spots.report(spots, spots.with_name("report.html"))


def find(browser: "Chrome", selector: str) -> "WebElement":
    return browser.find_element("css selector", selector)


def drawn(browser: "Chrome", selector: str = CHART) -> "WebElement":
    """Scroll to a chart, wait until it is drawn, and return it."""
    box = find(browser, selector)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", box)
    wait(lambda: box.get_attribute("data-x"))
    return box


def wait(ready: Callable[[], Any], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "the page does not get there"
        time.sleep(0.02)


def limits(box: "WebElement") -> tuple[float, float]:
    low, high = map(float, str(box.get_attribute("data-x")).split())
    return low, high


def requests(browser: "Chrome") -> list[str]:
    """Return the addresses that were asked for since the last call."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]


def test_it_opens_from_the_disk_and_asks_for_nothing(browser: "Chrome", report: Path) -> None:
    alone = Path(shutil.copy(report, report.parent / "alone.html"))
    browser.get(alone.as_uri())
    for box in browser.find_elements("css selector", ".chart"):
        drawn(browser, f"#{box.get_attribute('id')}")
    assert len(browser.find_elements("css selector", ".chart canvas")) == 16
    others = [url for url in requests(browser) if not url.startswith("data:image/png;base64,")]
    assert others == [alone.as_uri()]
    first = find(browser, "main p").text
    assert first.startswith("OK: no problem found; ")


def test_text_of_the_file_is_shown_and_not_run(browser: "Chrome", report: Path) -> None:
    browser.get(report.as_uri())
    assert HOSTILE in find(browser, "#options").text
    assert find(browser, "#command").text == HOSTILE
    assert HOSTILE in find(browser, "#warnings").text
    assert browser.execute_script("return window.hacked === undefined")
    assert not browser.find_elements("css selector", "img")
    # and if an element got in, the page's policy would not run it
    browser.execute_script(
        "const one = document.createElement('script'); one.textContent = 'window.hacked = 1';"
        "document.body.append(one)"
    )
    assert browser.execute_script("return window.hacked === undefined")
    (problem,) = browser.get_log("browser")
    assert "Content Security Policy" in problem["message"]


def test_charts_zoom_by_buttons_keys_and_mouse(browser: "Chrome", report: Path) -> None:
    from selenium.webdriver import ActionChains, Keys

    browser.get(report.as_uri())
    box = drawn(browser)
    whole = limits(box)
    assert whole == (0, 47)
    figure = box.find_element("xpath", "ancestor::figure")
    figure.find_element("css selector", "button[data-do=in]").click()
    wait(lambda: limits(box) == (11.75, 35.25))
    assert figure.find_element("css selector", "output").text == "shown: 11.75 to 35.25"
    box.send_keys(Keys.ARROW_RIGHT)
    wait(lambda: limits(box) == pytest.approx((16.45, 39.95)))
    box.send_keys("0")
    wait(lambda: limits(box) == whole)
    area = box.find_element("css selector", ".u-over")
    width = area.size["width"]
    drag = ActionChains(browser).move_to_element_with_offset(area, -width // 4, 0)
    drag.click_and_hold().move_by_offset(width // 2, 3).release().perform()
    wait(lambda: limits(box)[0] == pytest.approx(11.75, abs=0.5))
    assert limits(box)[1] == pytest.approx(35.25, abs=0.5)
    ActionChains(browser).double_click(area).perform()
    wait(lambda: limits(box) == whole)


def test_light_and_dark(browser: "Chrome", report: Path, prefer: Prefer) -> None:
    """The page follows the system, charts too; the button changes it."""
    browser.get(report.as_uri())
    drawn(browser)
    assert lightness(browser, "body", "backgroundColor") > 240
    prefer("dark")
    wait(lambda: lightness(browser, "body", "backgroundColor") < 40)
    assert contrast_of_texts(browser) >= 4.5
    wait(lambda: darkest_of_chart(browser) > 50)
    find(browser, "#theme").click()
    assert lightness(browser, "body", "backgroundColor") > 240
    assert contrast_of_texts(browser) >= 4.5
    wait(lambda: darkest_of_chart(browser) < 50)


def lightness(browser: "Chrome", selector: str, name: str) -> float:
    """Return the mean of red, green and blue, 0 to 255."""
    value = browser.execute_script(
        "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]",
        selector,
        name,
    )
    parts = [float(part) for part in re.findall(r"[\d.]+", value)[:3]]
    return sum(parts) / 3


def contrast_of_texts(browser: "Chrome") -> float:
    """Return the smallest contrast of a text to its background, by the formula of WCAG."""
    ratio = browser.execute_script(
        """
        const light = (c) => {
          const [r, g, b] = c.match(/[\\d.]+/g).slice(0, 3).map((v) => {
            v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        let least = 99;
        const texts = "p, a, li, strong, .badge, dt, dd, h2, td, th, button, summary, output, code";
        for (const one of document.querySelectorAll(texts)) {
          let at = one;
          const clear = "rgba(0, 0, 0, 0)";
          while (at && getComputedStyle(at).backgroundColor === clear) at = at.parentElement;
          const paper = light(getComputedStyle(at || document.body).backgroundColor);
          const ink = light(getComputedStyle(one).color);
          least = Math.min(least, (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05));
        }
        return least;
        """
    )
    return float(ratio)


def darkest_of_chart(browser: "Chrome") -> float:
    """Return the smallest lightness of what is drawn on a chart, 0 to 255."""
    least = browser.execute_script(
        """
        const canvas = document.querySelector(arguments[0] + " canvas");
        const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        let least = 255;
        for (let i = 0; i < data.length; i += 4)
          if (data[i + 3] > 250) least = Math.min(least, (data[i] + data[i + 1] + data[i + 2]) / 3);
        return least;
        """,
        CHART,
    )
    return float(least)


def test_it_prints_all_charts_in_light_colours(
    browser: "Chrome", report: Path, prefer: Prefer
) -> None:
    """Charts that were never on the screen too; afterwards the page is as before."""
    prefer("dark")
    browser.get(report.as_uri())
    pdf = base64.b64decode(browser.print_page())
    assert pdf.startswith(b"%PDF-")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 40
    assert len(browser.find_elements("css selector", ".chart canvas")) == 16
    assert lightness(browser, "body", "backgroundColor") < 40
    browser.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    assert lightness(browser, "body", "backgroundColor") > 240
    widths = "return [...document.querySelectorAll('.chart canvas')].map((one) => one.clientWidth)"
    assert set(browser.execute_script(widths)) == {340}  # a column of a page of A4 has 347
    assert set(browser.execute_script(widths.replace("Width", "Height"))) == {200}
    browser.execute_script("window.dispatchEvent(new Event('afterprint'))")
    assert min(browser.execute_script(widths)) > 400


def test_ticks_of_logarithmic_axes(browser: "Chrome", report: Path) -> None:
    """They are 1, 2 and 5 times powers of ten, zoomed or not, in the order of the axis."""
    browser.get(report.as_uri())
    box = drawn(browser, "#chart-intensities")
    browser.execute_script(
        """
        window.texts = [];
        const draw = CanvasRenderingContext2D.prototype.fillText;
        CanvasRenderingContext2D.prototype.fillText = function (text, ...place) {
          window.texts.push(text);
          return draw.call(this, text, ...place);
        };
        """
    )
    box.send_keys("+")
    wait(lambda: browser.execute_script("return window.texts.length > 4"))
    low, high = limits(box)
    found = [float(text) for text in browser.execute_script("return window.texts") if number(text)]
    inside = sorted({value for value in found if low <= value <= high})
    assert len(inside) >= 2
    assert all(f"{value:.0e}"[0] in "125" and float(f"{value:.0e}") == value for value in inside)


def number(text: str) -> bool:
    return re.fullmatch(r"[\d.]+(e\d+)?", text) is not None


def test_marks_can_be_hidden(browser: "Chrome", report: Path) -> None:
    browser.get(report.as_uri())
    mark = find(browser, "#frames path")
    assert mark.is_displayed()
    find(browser, "#frames input[data-marks]").click()
    assert not mark.is_displayed()
    assert find(browser, "#cutouts path").is_displayed()


def test_the_keyboard_reaches_everything(browser: "Chrome", report: Path) -> None:
    """The first key leads to the verdict, and every control and chart has a name and a focus."""
    from selenium.webdriver import Keys

    browser.get(report.as_uri())
    find(browser, "body").send_keys(Keys.TAB)
    assert browser.switch_to.active_element.text == "Skip to the verdict"
    assert browser.switch_to.active_element.is_displayed()
    for one in browser.find_elements("css selector", "button, .chart, svg[role=img], input"):
        name = one.accessible_name
        assert name, one.get_attribute("outerHTML")
    identifiers = browser.execute_script(
        "return [...document.querySelectorAll('[id]')].map((one) => one.id)"
    )
    assert len(set(identifiers)) == len(identifiers)
    assert browser.execute_script("return document.documentElement.lang") == "en"
