"""Make the picture of silx view: ``python docs/make_silx_picture.py [FOLDER]``.

It shows the tutorial's spots file as silx opens it, by default ``docs/images/silx.png``. Needs silx
with its viewer and a Qt, as by ``pip install silx[full] PySide6``; no screen.
"""

import os
import subprocess
import sys
import tempfile
import time
from contextlib import chdir
from pathlib import Path

DOCS = Path(__file__).parent
SECONDS = 5
"""Time in which the viewer opens the file."""


def main(folder: Path) -> None:
    """Make the spots file, and take the picture."""
    picture = folder.resolve() / "silx.png"
    with tempfile.TemporaryDirectory() as temporary, chdir(temporary):
        for command in (
            ("simulate", "laser__mccd.h5"),
            ("find", "laser__mccd.h5", "-S", "blocks", "--quiet"),
        ):
            program = [sys.executable, "-m", "gpu_spots", *command]
            subprocess.run(program, check=True, stderr=subprocess.DEVNULL)
        shoot("laser__spots.h5", picture)


def shoot(path: str, picture: Path) -> None:
    """Open a file in silx view, and write its window as a picture."""
    os.environ["QT_QPA_PLATFORM"] = "offscreen"
    from silx.app.view.Viewer import Viewer
    from silx.gui import qt
    from silx.gui.hdf5 import Hdf5TreeView

    application = qt.QApplication([])
    viewer = Viewer()
    viewer.resize(1150, 720)
    viewer.show()
    viewer.appendFile(path)

    def wait() -> None:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            application.processEvents()
            time.sleep(0.01)

    wait()
    (tree,) = viewer.findChildren(Hdf5TreeView)
    tree.expandToDepth(0)
    tree.resizeColumnToContents(0)
    wait()
    viewer.grab().save(str(picture))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS / "images")
