"""Make the screenshots of the documentation: ``python docs/make_screenshots.py [FOLDER]``.

Each is made twice, ``NAME.png`` for light and ``NAME-dark.png`` for dark pages, by default in
``docs/images``. They show reports of the tutorial's run, and of one that drifts, the tutorial's run
in the viewer, and the page of a beamtime. Needs Chromium with its driver, and the extra ``test``.
"""

import base64
import io
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.keys import Keys

import gpu_spots

DOCS = Path(__file__).parent
WIDTH = 1100
"""Width of the window, pixels."""
REPORTS = {
    "report": ((), ("-S", "blocks"), 2050),
    "report-drift": (
        ("--drift", "3", "--size", "512", "--seed", "1"),
        ("-S", "blocks", "--manual"),
        470,
    ),
}
"""Options of simulate and find, and height of the picture, pixels, by its name."""
RUNS = {
    "compound_1/dark_01": ("--dark", "--angles", "10", "--frames-per-angle", "4"),
    "compound_1/laser_01": ("--pairs", "3"),
    "compound_1/laser_02": ("--pairs", "3", "--drift", "3"),
    "compound_2/dark_01": ("--dark", "--angles", "10", "--frames-per-angle", "4"),
    "compound_2/laser_10": ("--pairs", "3", "--largest-response", "0"),
}
"""Options of simulate for the runs of a beamtime, by their names."""
VIEWS = {
    "view": ("low=0&high=4000", "s"),
    "tune": (
        "of=difference&low=-50&high=250&zoom=2.2&X=330&Y=600&tab=tune&split=1&tune-significance=4",
        "",
    ),
}
"""State of the page of the viewer, and a key that is pressed, by the name of the picture."""


def main(folder: Path) -> None:
    """Make the runs and their reports, and take the pictures."""
    folder = folder.resolve()
    browser = chromium()
    try:
        with tempfile.TemporaryDirectory() as temporary:
            for name, (simulated, found, height) in REPORTS.items():
                spots = Path(temporary, f"{name}__spots.h5")
                run = spots.with_name("laser__mccd.h5")
                for command in (
                    ("simulate", str(run), "--force", *simulated),
                    ("find", str(run), "-o", str(spots), "--quiet", *found),
                ):
                    program = [sys.executable, "-m", "gpu_spots", *command]
                    subprocess.run(program, check=True, stderr=subprocess.DEVNULL)
                page = gpu_spots.report(spots, spots.with_name(f"{name}.html"))
                for scheme, suffix in (("light", ""), ("dark", "-dark")):
                    path = folder / f"{name}{suffix}.png"
                    shoot(browser, page.as_uri(), scheme, path, height)
                    print(path.name)
                if name == "report":
                    view(browser, spots, folder)
            page = beamtime(Path(temporary))
            for scheme, suffix in (("light", ""), ("dark", "-dark")):
                shoot(browser, page.as_uri(), scheme, folder / f"beamtime{suffix}.png", 705)
                print(f"beamtime{suffix}.png")
    finally:
        browser.quit()


def beamtime(folder: Path) -> Path:
    """Process some runs, one of them cut off, and return the page of them."""
    runs = folder / "runs"
    for seed, (name, options) in enumerate(RUNS.items()):
        run = runs / f"{name}__mccd.h5"
        run.parent.mkdir(parents=True, exist_ok=True)
        words = ("simulate", run, "--size", 384, "--spots", 60, "--seed", seed, *options)
        program = [sys.executable, "-m", "gpu_spots", *map(str, words)]
        subprocess.run(program, check=True, stderr=subprocess.DEVNULL)
    whole = (runs / "compound_1/laser_01__mccd.h5").read_bytes()
    (runs / "compound_2/laser_02__mccd.h5").write_bytes(whole[: len(whole) // 3])
    gpu_spots.batch(runs, folder / "march", laser_options=["-S", "blocks"], ratios=True)
    return folder / "march/index.html"


def view(browser: webdriver.Chrome, spots: Path, folder: Path) -> None:
    """Take the pictures of the viewer."""
    program = [sys.executable, "-m", "gpu_spots", "view", str(spots), "--no-browser"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        address = running.stdout.readline().strip()
        try:
            for name, (state, key) in VIEWS.items():
                for scheme, suffix in (("light", ""), ("dark", "-dark")):
                    browser.get("about:blank")
                    shoot(
                        browser,
                        f"{address}#{state}",
                        scheme,
                        folder / f"{name}{suffix}.png",
                        760,
                        key,
                    )
                    print(f"{name}{suffix}.png")
        finally:
            running.terminate()


def chromium(*arguments: str) -> webdriver.Chrome:
    """Return a browser without a window, with further arguments of its command line."""
    options = webdriver.ChromeOptions()
    for argument in ("headless=new", "no-sandbox", "hide-scrollbars", f"window-size={WIDTH},900"):
        options.add_argument(f"--{argument}")
    for argument in arguments:
        options.add_argument(argument)
    return webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))


def shoot(
    browser: webdriver.Chrome, address: str, scheme: str, path: Path, height: int, key: str = ""
) -> None:
    """Write the upper part of a page, in ``light`` or ``dark`` colours, with 256 colours."""
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    browser.set_window_size(WIDTH, height + 200)
    browser.get(address)
    time.sleep(1)  # charts are drawn when they are seen
    if "token=" in address:
        if key:
            browser.find_element("tag name", "body").send_keys(key)
        time.sleep(6)  # the finder is prepared
        _wait_for_masks(browser)
        if "tab=tune" in address:
            # as for a user who moves the slider, when all is prepared
            for press in (Keys.RIGHT, Keys.LEFT):
                browser.find_element("id", "significance").send_keys(press)
                time.sleep(1)
                _wait_for_masks(browser)
        height = browser.execute_script("return innerHeight")
    write_picture(browser, path, WIDTH, height)


def _wait_for_masks(browser: webdriver.Chrome) -> None:
    while browser.find_element("id", "false-tuned").get_attribute("textContent") == "…":
        time.sleep(0.5)


def write_picture(browser: webdriver.Chrome, path: Path, width: int, height: int) -> None:
    """Write the upper left part of what the browser shows, with 256 colours."""
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    taken = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", "clip": clip})
    image = Image.open(io.BytesIO(base64.b64decode(taken["data"]))).convert("RGB")
    image.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS / "images")
