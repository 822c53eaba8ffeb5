"""Make the pictures of h5web: ``python docs/make_h5web_picture.py [FOLDER]``.

They show the tutorial's spots file and its ratios as h5web opens them in JupyterLab, by default
``docs/images/h5web.png`` and ``docs/images/h5web-ratios.png``, and each for dark pages, as
``NAME-dark.png``. Needs Chromium with its driver, the extra ``test``, and on the path the command
``jupyter-lab`` of an environment with ``pip install jupyterlab jupyterlab-h5web``.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import chdir
from pathlib import Path

from make_screenshots import chromium, write_picture
from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

DOCS = Path(__file__).parent
PICTURES = {"h5web": "laser__spots.h5", "h5web-ratios": "laser__ratios.h5"}
"""File that each picture shows."""
PORT, TOKEN = 8991, "picture"
SETTINGS = {
    "themes": {"theme": "JupyterLab Light"},
    "notification": {"fetchNews": "false"},
}
"""Settings of JupyterLab, by the names of their files."""
WIDTH, HEIGHT = 1150, 720
"""Size of the pictures, pixels."""
SECONDS = 90
"""Time in which JupyterLab starts, and in which it opens a file."""


def main(folder: Path) -> None:
    """Make the files, and take the pictures."""
    if shutil.which("jupyter-lab") is None:
        sys.exit("no picture of h5web: jupyter-lab is not installed")
    folder = folder.resolve()
    with tempfile.TemporaryDirectory() as temporary, chdir(temporary):
        for command in (
            ("simulate", "laser__mccd.h5"),
            ("find", "laser__mccd.h5", "-S", "blocks", "--quiet"),
            ("ratios", "laser__spots.h5"),
        ):
            program = [sys.executable, "-m", "gpu_spots", *command]
            subprocess.run(program, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        for scheme, suffix in (("Light", ""), ("Dark", "-dark")):
            shoot(scheme, {file: folder / f"{name}{suffix}.png" for name, file in PICTURES.items()})


def shoot(scheme: str, pictures: dict[str, Path]) -> None:
    """Write pictures of files in the working directory, in ``Light`` or ``Dark`` colours."""
    settings = Path("settings", "@jupyterlab", "apputils-extension")
    settings.mkdir(parents=True, exist_ok=True)
    for name, values in (SETTINGS | {"themes": {"theme": f"JupyterLab {scheme}"}}).items():
        Path(settings, f"{name}.jupyterlab-settings").write_text(json.dumps(values))
    command = (
        *("jupyter-lab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={PORT}"),
        f"--IdentityProvider.token={TOKEN}",
    )
    places = {"HOME": os.getcwd(), "JUPYTERLAB_SETTINGS_DIR": str(Path("settings").resolve())}
    with subprocess.Popen(command, env=os.environ | places, stderr=subprocess.DEVNULL) as running:
        browser = chromium("--use-angle=swiftshader", "--enable-unsafe-swiftshader")
        try:
            browser.set_window_size(WIDTH, HEIGHT + 143)
            for file, path in pictures.items():
                open_file(browser, file)
                write_picture(browser, path, WIDTH, HEIGHT)
                print(path.name)
        finally:
            browser.quit()
            running.terminate()


def open_file(browser: webdriver.Chrome, name: str) -> None:
    """Open a file in h5web, without the list of files beside it."""
    address = f"http://127.0.0.1:{PORT}"
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(f"{address}/api?token={TOKEN}").close()
            break
        except OSError:
            time.sleep(0.5)
    browser.get(f"{address}/lab?token={TOKEN}&reset")
    wait = WebDriverWait(browser, SECONDS)

    def item(_: webdriver.Chrome) -> WebElement | None:
        items = browser.find_elements(By.CLASS_NAME, "jp-DirListing-item")
        return next((one for one in items if name in one.text), None)

    found = wait.until(item)
    time.sleep(2)  # the extension is loaded
    ActionChains(browser).double_click(found).perform()
    wait.until(lambda _: browser.find_elements(By.TAG_NAME, "canvas"))
    # without the list of files, and with the mouse on nothing
    browser.find_element(By.TAG_NAME, "body").send_keys(Keys.CONTROL, "b")
    ActionChains(browser).move_by_offset(0, HEIGHT // 2).perform()
    time.sleep(6)  # the picture is drawn


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS / "images")
