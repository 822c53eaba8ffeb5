"""Patterns of image names, such as ``{base}_{angle}_{laser}_{repeat}.mccd``."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from gpu_spots.errors import ParameterError

MAX_PARTS = 40
"""Maximum number of fields, ``*`` and texts in a pattern."""
_FIELD = re.compile(r"\{([^{}]*)\}|\*")
_ANGLE = re.compile(r"([+-]?\d+)(\.\d+)?")
_DIGITS = re.compile(r"\d+")
_LASER = re.compile(r"on|off|[01]", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class NamePattern:
    """A pattern of names.

    Matching takes time in proportion to the parts and the square of the name.
    """

    parts: tuple[tuple[str, str], ...]
    """Kind and text of each part: text, ``*``, or a field."""

    @property
    def fields(self) -> list[str]:
        """Names of the fields, in order."""
        return [text for kind, text in self.parts if kind == "field"]

    def match(self, name: str) -> dict[str, str] | None:
        """Return the texts of the fields in a name; None: the name does not match the pattern.

        Example:
            >>> compile_pattern("{base}_{angle}.tif").match("a_b_-1.5.tif")
            {'base': 'a_b', 'angle': '-1.5'}
        """
        failed: set[tuple[int, int]] = set()

        def match(part: int, begin: int) -> list[int] | None:
            if part == len(self.parts):
                return [] if begin == len(name) else None
            if (part, begin) in failed:
                return None
            for end in _ends(*self.parts[part], name, begin):
                rest = match(part + 1, end)
                if rest is not None:
                    return [end, *rest]
            failed.add((part, begin))
            return None

        ends = match(0, 0)
        if ends is None:
            return None
        begins = [0, *ends]
        return {
            text: name[begin:end]
            for (kind, text), begin, end in zip(self.parts, begins, ends, strict=False)
            if kind == "field"
        }


def compile_pattern(pattern: str) -> NamePattern:
    """Take a pattern apart.

    Raises `ParameterError` where it has no fields, or fields that are none.
    """
    parts: list[tuple[str, str]] = []
    end = 0
    for found in _FIELD.finditer(pattern):
        if found.start() > end:
            parts.append(("text", pattern[end : found.start()]))
        end = found.end()
        name = found[1]
        if name is None:
            if parts[-1:] != [("any", "*")]:
                parts.append(("any", "*"))
            continue
        if not re.fullmatch(r"[A-Za-z]\w{0,99}", name, re.ASCII):
            shown = name if len(name) <= 40 else f"{name[:40]}..."
            raise ParameterError(
                "name_pattern",
                f"{pattern[:200]!r}: {{{shown}}} is not a field, expected a name such as {{angle}}",
            )
        if ("field", name) in parts:
            raise ParameterError("name_pattern", f"{pattern[:200]!r} has {{{name}}} twice")
        parts.append(("field", name))
        if len(parts) > MAX_PARTS:
            break
    if end < len(pattern):
        parts.append(("text", pattern[end:]))
    if len(parts) > MAX_PARTS:
        raise ParameterError(
            "name_pattern",
            f"{pattern[:200]!r} has more than {MAX_PARTS} fields, * and texts between them",
        )
    if not any(kind == "field" for kind, _ in parts):
        raise ParameterError(
            "name_pattern",
            f"{pattern[:200]!r} has no field, expected some such as {{angle}}, {{laser}}, "
            f"{{repeat}}",
        )
    return NamePattern(tuple(parts))


def _ends(kind: str, text: str, name: str, begin: int) -> Iterator[int]:
    """Yield the possible ends of a part that begins at ``begin``, the preferred one first."""
    if kind == "text":
        if name.startswith(text, begin):
            yield begin + len(text)
    elif kind == "any":
        yield from range(len(name), begin - 1, -1)
    elif text == "angle":
        if found := _ANGLE.match(name, begin):
            if found[2]:
                yield from range(found.end(2), found.start(2) + 1, -1)
            yield from range(found.end(1), begin + found[1].startswith(("+", "-")), -1)
    elif text in ("repeat", "angle_number"):
        if found := _DIGITS.match(name, begin):
            yield from range(found.end(), begin, -1)
    elif text == "laser":
        if found := _LASER.match(name, begin):
            yield found.end()
    else:
        yield from range(begin + 1, len(name) + 1)
