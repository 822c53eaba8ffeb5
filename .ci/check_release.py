"""Check that a tag is a release of this tree; print the section of the changelog for it.

    python .ci/check_release.py v0.1.0

The tag, ``gpu_spots.__version__``, CITATION.cff, the recipe for conda-forge and a section of
CHANGELOG.md must have the same version.
"""

import re
import sys
from pathlib import Path


def check_version(root: Path, version: str) -> None:
    """Raise SystemExit where a file of the tree has another version."""
    for name, pattern in {
        "gpu_spots/__init__.py": r'^__version__ = "(.+)"$',
        "CITATION.cff": r"^version: (.+)$",
        "recipe/recipe.yaml": r'^  version: "(.+)"$',
    }.items():
        found = re.search(pattern, (root / name).read_text(), re.MULTILINE)
        if found is None or found[1] != version:
            sys.exit(f"{name}: found version {found[1] if found else 'none'}, expected {version}")


def changes(root: Path, version: str) -> str:
    """Return the section of the changelog for a version. Raises SystemExit where there is none."""
    sections = re.split(r"^(?=## )", (root / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    section = next((text for text in sections if text.startswith(f"## [{version}]")), None)
    if section is None:
        sys.exit(f"CHANGELOG.md: no section [{version}]; rename [Unreleased], and give the date")
    return section.partition("\n")[2].strip()


def check(root: Path, tag: str) -> str:
    """Return the section of the changelog for a tag. Raises SystemExit where versions differ."""
    version = tag.removeprefix("v")
    if tag == version:
        sys.exit(f"tag {tag}: found no v at the beginning, expected a tag such as v1.2.3")
    check_version(root, version)
    return changes(root, version)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: check_release.py TAG")
    print(check(Path(__file__).parent.parent, sys.argv[1]))
