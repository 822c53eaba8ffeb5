"""The tables of messages in the documentation show what the program says."""

import ast
import re
from collections.abc import Iterator

import pytest

from helpers import ROOT

FIELD = "\0"
WORD = re.compile(r"[A-Za-z]+(?:-[a-z]+|'s)?")
VALUES = {
    "JPEG",
    "CuPy",
    "GPU",
    "csv",
    "refl",
    "pandas",
    "pyarrow",
    "starlette",
    "uvicorn",
    "kruskal",
    "clip",
    "off",
    "on",
}
"""Words that stand for values in the messages of the tables."""


def texts() -> Iterator[str]:
    """Every text of the program, with `FIELD` where a value is put in."""
    for folder in ("gpu_spots", "cpu_fallback"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.JoinedStr):
                    parts = [
                        str(part.value) if isinstance(part, ast.Constant) else FIELD
                        for part in node.values
                    ]
                    yield "".join(parts)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def words_of(text: str) -> list[str]:
    return [word for part in text.split() if (word := part.strip("(),;:.`"))]


def messages() -> Iterator[tuple[str, str]]:
    """Page and text of each message of a table whose first column is ``message``."""
    for page in sorted((ROOT / "docs").glob("*.md")):
        for table in re.findall(
            r"^\| message .*\n\|[-|]+\|\n((?:\|.*\n)+)", page.read_text(), re.M
        ):
            for row in table.splitlines():
                yield from (
                    (page.name, text) for text in re.findall(r"`([^`]+)`", row.split("|")[1])
                )


@pytest.fixture(scope="module")
def neighbours() -> set[tuple[str, str]]:
    """Words that follow each other in a text of the program; a value is `FIELD`."""
    found = set()
    for text in texts():
        words = [FIELD if FIELD in word else word for word in words_of(text)]
        found |= set(zip([FIELD, *words], [*words, FIELD], strict=True))
    return found


def unknown_words(message: str, neighbours: set[tuple[str, str]]) -> list[str]:
    """Words of a message that do not follow, or are not followed, as in the program."""
    unknown = []
    for part in message.split("..."):
        words = [
            word if WORD.fullmatch(word) and word not in VALUES else FIELD
            for word in words_of(part)
        ]
        padded = [FIELD, *words, FIELD]
        for before, word, after in zip(padded, padded[1:], padded[2:], strict=False):
            if word != FIELD and not {(before, word), (word, after)} & neighbours:
                unknown.append(word)
    return unknown


def test_the_program_has_the_messages(neighbours: set[tuple[str, str]]) -> None:
    listed = list(messages())
    assert len(listed) > 90
    assert not [
        (page, message, unknown)
        for page, message in listed
        if (unknown := unknown_words(message, neighbours))
    ]


def test_a_changed_message_is_seen(neighbours: set[tuple[str, str]]) -> None:
    said = "need at least 12 MiB of GPU memory, 3 MiB are available"
    assert not unknown_words(said, neighbours)
    assert unknown_words(said.replace("need at least", "demand"), neighbours) == ["demand"]
