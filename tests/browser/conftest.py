"""A real browser, Chromium with its driver, that has no network beyond this machine."""

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

SIZE = 1200, 900
"""Width and height of the window, pixels."""


@pytest.fixture(scope="package")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Chrome]":
    """One browser for all tests of this folder in a process. Skips where there is none."""
    pytest.importorskip("selenium")
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("no Chromium: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in (
        "--headless=new",
        "--no-sandbox",  # Chromium refuses to run as root with it
        "--disable-dev-shm-usage",  # containers have little shared memory
        "--disable-gpu",
        "--force-device-scale-factor=1",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
        f"--window-size={SIZE[0]},{SIZE[1]}",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        found.set_page_load_timeout(60)
        yield found
    finally:
        found.quit()


@pytest.fixture
def browser(chromium: "Chrome") -> "Iterator[Chrome]":
    """The browser with an empty page, in light colours. The test fails if a page logs an error."""
    chromium.get("about:blank")
    chromium.set_window_size(*SIZE)
    colours(chromium, "light")
    for kind in ("browser", "performance"):
        chromium.get_log(kind)
    yield chromium
    problems = [
        entry["message"] for entry in chromium.get_log("browser") if entry["level"] == "SEVERE"
    ]
    chromium.get("about:blank")
    assert not problems


def colours(browser: "Chrome", scheme: str, **media: Any) -> None:
    """Let pages see that the user prefers ``light`` or ``dark`` colours."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features, **media})


@pytest.fixture
def prefer(browser: "Chrome") -> Any:
    """Return what lets pages see that the user prefers ``light`` or ``dark`` colours."""

    def set_scheme(scheme: str, **media: Any) -> None:
        colours(browser, scheme, **media)

    return set_scheme
