"""The page of the viewer in a real browser, by clicks and keys."""

import json
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest

from factories.view_pages import SCRIPT, run_to_view, viewed_run
from gpu_spots import open_spots
from gpu_spots.errors import InputError
from gpu_spots.pictures import outlines
from helpers import command

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

WAIT = 20


@pytest.fixture(scope="module")
def spots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_to_view(tmp_path_factory.mktemp("page"), "-S", "blocks")


@pytest.fixture(scope="module")
def url(spots: Path) -> Iterator[str]:
    """Address of the page, served by a thread."""
    with served(spots) as address:
        yield address


@contextmanager
def served(spots: Path, frames_from: Path | None = None) -> Iterator[str]:
    """Serve the page of a run by a thread, and give its address."""
    from gpu_spots.view.app import make_app
    from gpu_spots.view.server import address, open_socket, serving

    with viewed_run(spots, frames_from) as viewed:
        with suppress(InputError):  # a frame that cannot be read, as in the command
            viewed.warm_up()
        listening = open_socket(0)
        with serving(make_app(viewed, "a-token"), listening):
            yield address(listening, "a-token")


class Page:
    """The page as a user has it."""

    def __init__(self, browser: "Chrome", url: str) -> None:
        self.browser, self.url = browser, url

    def open(self, state: str = "") -> None:
        self.browser.get("about:blank")
        self.browser.get(f"{self.url}#{state}" if state else self.url)
        self.shows("frame")

    def shows(self, of: str, frame: int | None = None) -> None:
        """Wait until a picture is shown."""
        wanted = f"{of} " if frame is None else f"{of} {frame}"
        self.until(lambda: (self.js("return canvas.dataset.shown") or "").startswith(wanted))

    def until(self, check: Any) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.browser, WAIT, 0.05).until(lambda _: check())

    def js(self, program: str, *arguments: Any) -> Any:
        return self.browser.execute_script(program, *arguments)

    def find(self, name: str) -> Any:
        return self.browser.find_element("id", name)

    def text(self, name: str) -> str:
        return str(self.find(name).text)

    def keys(self, *keys: str) -> None:
        self.browser.find_element("tag name", "body").send_keys(*keys)

    def click_pixel(self, X: float, Y: float) -> None:
        """Click the middle of a pixel of the frame."""
        from selenium.webdriver import ActionChains

        x, y = self.js(
            "const g = geometry(); const v = g.view;"
            "return [(arguments[1] + 0.5 - g.centre[1]) * g.zoom,"
            "        (arguments[0] + 0.5 - g.centre[0]) * g.zoom]",
            X,
            Y,
        )
        canvas = self.find("picture")
        ActionChains(self.browser).move_to_element_with_offset(
            canvas, round(x), round(y)
        ).click().perform()

    def colour_at(self, X: float, Y: float) -> list[int]:
        """Colour that the canvas shows in the middle of a pixel."""
        found: list[int] = self.js(
            "drawNow(); const g = geometry(); const v = g.view; const r = devicePixelRatio;"
            "const x = (v.width / 2 + (arguments[1] + 0.5 - g.centre[1]) * g.zoom) * r;"
            "const y = (v.height / 2 + (arguments[0] + 0.5 - g.centre[0]) * g.zoom) * r;"
            "return [...context.getImageData(x, y, 1, 1).data].slice(0, 3)",
            X,
            Y,
        )
        return found


@pytest.fixture
def page(browser: "Chrome", url: str) -> Page:
    found = Page(browser, url)
    found.open()
    return found


def test_names_from_the_file_are_text(page: Page) -> None:
    """A file and a dataset whose names are a script: nothing runs, and the page shows them."""
    assert page.text("file") == f"{SCRIPT}__spots.h5"
    page.find("tab-run").click()
    assert f"/{SCRIPT}" in page.text("info")
    # the page's own scripts, none from a name
    assert page.js("return document.scripts.length") == 4
    assert page.js("return document.querySelectorAll('script:not([src])').length") == 0


def test_frames_contrast_and_masks(page: Page, spots: Path) -> None:
    """Next frame, contrast, masks on and off; the address keeps it."""
    assert page.text("frame-words").startswith("0°, laser off, ")
    page.find("next").click()
    page.shows("frame", 1)
    assert "laser on" in page.text("frame-words")
    before = page.colour_at(2, 2)
    for name, value in (("low", "0"), ("high", "100000")):
        page.js(
            "const box = byId(arguments[0]); box.value = arguments[1];"
            "box.dispatchEvent(new Event('change'))",
            name,
            value,
        )
    page.until(lambda: page.colour_at(2, 2) == [255, 255, 255])  # inverted: few counts are white
    assert before != [255, 255, 255]
    with open_spots(spots) as results:
        n_pixels = int(results.mask(1, "synced").sum())
    page.until(lambda: page.js("return canvas.dataset.masks") == str(n_pixels))
    page.find("show-final").click()
    page.until(lambda: page.js("return canvas.dataset.masks") == "")
    page.until(lambda: "high=100000" in page.browser.current_url)
    page.until(lambda: "show=&" in page.browser.current_url)
    state = page.browser.current_url.partition("#")[2]
    assert "frame=1" in state
    page.open(state)
    page.shows("frame", 1)
    assert page.find("high").get_attribute("value") == "100000"
    assert not page.find("show-final").is_selected()


def test_a_frame_that_cannot_be_read_has_no_picture(
    browser: "Chrome", spots: Path, tmp_path: Path
) -> None:
    """It does not show the picture of the frame before, which comes back with that frame."""
    run = Path(shutil.copy(spots.parent / "run__mccd.h5", tmp_path))
    with open_spots(spots) as results:
        changed = int(np.bincount(results.arg.ravel(), minlength=results.n_frames).argmin())
    with h5py.File(run, "r+") as file:
        file[SCRIPT][changed] += 1
    good = changed - 1 if changed else 1
    with served(spots, run) as url:
        page = Page(browser, url)
        page.open(f"frame={good}&show=")
        page.shows("frame", good)
        before = page.colour_at(2, 2)
        page.find("next" if changed else "previous").click()
        page.until(lambda: f"its frame {changed} is not that of" in page.text("status"))
        page.until(lambda: page.js("return canvas.dataset.shown") == "")
        empty = page.colour_at(2, 2)
        page.find("previous" if changed else "next").click()
        page.shows("frame", good)
        assert page.colour_at(2, 2) == before != empty
    log = browser.get_log("browser")
    refused = [entry["message"] for entry in log if entry["level"] == "SEVERE"]
    assert refused
    assert all("status of 409" in message for message in refused)


def test_keys(page: Page) -> None:
    page.keys("?")
    assert page.find("keys").is_displayed()
    assert "next frame" in page.text("keys")
    page.find("keys-close").click()
    page.keys("\ue014")  # right arrow
    page.shows("frame", 1)
    page.keys("p")
    page.shows("frame", 0)
    page.keys("\ue00f")  # page down: next angle
    page.shows("frame", 4)
    page.keys("d")
    page.shows("difference", 4)
    page.keys("g")
    page.shows("avg")
    page.keys("+", "+")
    assert page.js("return state.zoom") > 0
    page.keys("0")
    assert page.js("return state.zoom") == 0


def test_click_a_spot(page: Page, spots: Path) -> None:
    """Its properties, its course off and on, and the spot on the next frame."""
    with open_spots(spots) as results:
        first = int(results.frame_ranges[0, 0])
        table = results.spots(0)
        at = int(np.argmax(table["I"]))
        X, Y = table["XY"][at].tolist()
    page.until(lambda: page.js("return overlay.frame") == 0)
    page.click_pixel(X, Y)
    page.until(lambda: page.text("spot-title") == f"Spot {first + at}, frame 0, X {X} Y {Y}")
    cells = [cell.text for cell in page.find("properties").find_elements("css selector", "td")]
    assert cells[cells.index("n_pixels") + 1] == str(int(table["n_pixels"][at]))
    dots = page.find("course").find_elements("css selector", "circle")
    assert [dot.get_attribute("class").split()[0] for dot in dots] == ["off", "on", "off", "on"]
    page.find("next").click()
    page.until(lambda: ", frame 1, " in page.text("spot-title"))
    page.find("tab-list").click()
    assert len(page.find("list").find_elements("css selector", "tbody tr")) > 3


def test_strongest(page: Page, spots: Path) -> None:
    with open_spots(spots) as results:
        frame = int(results.spots()["frame"][np.argmax(results.spots()["I"])])
    page.keys("s")
    page.until(lambda: f", frame {frame}, " in page.text("spot-title"))
    assert page.text("ranked-place").startswith("1 of ")
    page.find("ranked-next").click()
    page.until(lambda: page.text("ranked-place").startswith("2 of "))


def test_tune(page: Page, spots: Path, tmp_path: Path) -> None:
    """A cutoff chosen by a slider; the copied command gives the same masks of that frame."""
    page.open("frame=6&tab=tune")
    page.until(lambda: page.text("n-tuned") != "")
    assert "The masks are the stored ones" in page.text("tune-words")
    assert page.text("n-stored") == page.text("n-tuned")
    page.js("byId('finder').value = 'threshold'; byId('finder').dispatchEvent(new Event('change'))")
    page.js("byId('cutoff').value = 3.75; byId('cutoff').dispatchEvent(new Event('input'))")
    page.until(lambda: tuned(page).get("cutoff") == "3.75")
    page.until(lambda: page.text("false-tuned").isdigit())
    page.find("side-by-side").click()
    page.until(lambda: page.find("split").is_displayed())
    page.find("copy").click()
    page.until(lambda: page.text("copied") == "copied")
    words = shlex.split(page.js("return byId('command').value"))
    assert "-c 3.75" in shlex.join(words)
    words[words.index("-o") + 1] = str(tmp_path / "again.h5")
    assert command(*words[1:], "--quiet", name="gpu-spots").status == 0
    with open_spots(tmp_path / "again.h5") as again:
        labels = again.labels(6)
        n_spots = len(again.spots(6)["I"])
    assert page.text("n-tuned") == str(n_spots)
    shown = page.js("return ask('tuned', { frame: 6, ...tunedValues() })")
    assert {name: units(shown["final"][name]) for name in ("along_y", "along_x")} == {
        name: units(lines.reshape(-1).tolist())
        for name, lines in zip(("along_y", "along_x"), outlines(labels), strict=True)
    }


def units(lines: list[int]) -> list[tuple[int, int]]:
    """Lines of any length as pieces of length 1: place across, and begin."""
    each = zip(lines[::3], lines[1::3], lines[2::3], strict=True)
    return sorted((at, i) for at, begin, end in each for i in range(begin, end))


def tuned(page: Page) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(page.find("panel-tune").get_attribute("data-tuned") or "{}")
    return found


def test_light_and_dark(page: Page, prefer: Any) -> None:
    def ground() -> str:
        return str(page.js("return getComputedStyle(document.body).backgroundColor"))

    assert ground() == "rgb(255, 255, 255)"
    prefer("dark")
    page.until(lambda: ground() == "rgb(21, 24, 29)")


def test_a_narrow_window_shows_all_by_scrolling(page: Page) -> None:
    size = {"width": 400, "height": 700, "deviceScaleFactor": 1, "mobile": False}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page.open("tab=tune")
        wide, cut = page.browser.execute_script(
            "const aside = document.querySelector('aside');"
            "return [document.documentElement.scrollWidth, aside.scrollHeight - aside.clientHeight]"
        )
        assert wide <= 400
        assert cut == 0
        assert page.find("command").is_displayed()
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_controls_have_names(page: Page) -> None:
    """Every control can be named by a screen reader, and is reached by Tab."""
    nameless = page.js(
        "return [...document.querySelectorAll('button, input, select, textarea, canvas')]"
        ".filter(e => !(e.labels?.length || e.getAttribute('aria-label') || e.textContent.trim()))"
        ".map(e => e.id)"
    )
    assert nameless == []
    assert "X goes down" in page.find("picture").get_attribute("aria-label")
