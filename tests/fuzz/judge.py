"""Classes of outcomes: what is right, and what is a failure."""

import os
import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

MEMORY = 3 << 29
"""Bytes; no input of the fuzzer needs as much."""
FAILURES = ("crash", "hang", "memory", "traceback", "unclear", "noise", "leftover", "different")
"""Classes that are failures; ``different``: another result than the file holds, with status 0."""
CLASSES = ("same", "explained", "error", *FAILURES)
"""``same``: as without the damage; ``explained``: another result, as the damaged file has it."""


@dataclass(frozen=True)
class Verdict:
    """Class of a case and its reason."""

    kind: str
    """One of `CLASSES`."""
    detail: str = ""
    """The error line, the stack, or what differs."""

    @property
    def is_failure(self) -> bool:
        """True if the program has to be corrected."""
        return self.kind in FAILURES

    @property
    def signature(self) -> str:
        """Equal for failures that are likely to have the same cause."""
        if self.kind not in ("traceback", "hang", "crash"):
            first = self.detail.partition("\n")[0]
            return f"{self.kind} {re.sub('[0-9]+', 'N', first)[:60]}"
        frames = [
            (os.path.basename(file), file, line)
            for file, line in re.findall(r'File "([^"]+)", line (\d+)', self.detail)
        ]
        if self.kind == "traceback":  # the last call last; a stack of faulthandler begins with it
            frames.reverse()
        ours = [f"{name}:{line}" for name, file, line in frames if "/gpu_spots/" in file][:1]
        last = [f"{name}:{line}" for name, _, line in frames[:1] if self.kind != "hang"]
        return " ".join([self.kind, *ours, *last]) if frames else f"{self.kind} {self.detail[:60]}"


def judge(outcome: dict[str, Any], baseline: dict[str, Any] | None = None) -> Verdict:
    """Return the class of an outcome of `Worker.run`; ``baseline`` is that of the sound file."""
    if outcome["hung"]:
        return Verdict("hang", outcome["stack"] or "no stack")
    if outcome["signal"]:
        return Verdict("crash", f"{outcome['signal']}\n{outcome['stack']}")
    if outcome["memory"] > MEMORY:
        return Verdict("memory", f"{outcome['memory'] / 2**20:.0f} MiB: {_last(outcome)}")
    ended = "same"
    detail = ""
    for number, result in enumerate(outcome["results"]):
        if result["trace"] or "Traceback" in result["stderr"]:
            return Verdict("traceback", result["trace"] or result["stderr"])
        if why := unclear(result, outcome["files"]):
            return Verdict(
                "unclear",
                f"{why}: {result['stderr']!r}"
                if result["status"]
                else f"{why}: {result['stdout']!r}",
            )
        if result["status"]:
            ended, detail = "error", result["stderr"].strip()
        elif (
            baseline
            and result["digest"] != baseline["results"][number]["digest"]
            and ended != "error"
        ):
            ended, detail = (
                "different",
                differing(result["digest"] or {}, baseline["results"][number]["digest"] or {}),
            )
    if outcome["noise"].strip():
        return Verdict("noise", outcome["noise"].strip())
    if outcome["lost"] or (
        ended == "error" and outcome["left"] and not any(r["digest"] for r in outcome["results"])
    ):
        return Verdict("leftover", f"new {outcome['left']}, gone {outcome['lost']}")
    return Verdict(ended, detail)


def differing(found: dict[str, str], expected: dict[str, str]) -> str:
    """Name the results that are not equal."""
    return (
        ", ".join(
            path for path in sorted({*found, *expected}) if found.get(path) != expected.get(path)
        )
        or "nothing"
    )


def _last(outcome: dict[str, Any]) -> str:
    return outcome["results"][-1]["stderr"].strip() if outcome["results"] else ""


def unclear(result: dict[str, Any], files: Collection[str]) -> str:
    """Say what is wrong with the texts of a command; empty where they are as they should be."""
    for text in (result["stdout"], result["stderr"]):
        if bad := next(
            (
                char
                for char in text
                if char != "\n" and unicodedata.category(char) in ("Cc", "Zl", "Zp")
            ),
            None,
        ):
            return f"control character {bad!r}"
    if not result["status"]:
        return ""
    lines = [line for line in result["stderr"].split("\n")[:-1] if not line.startswith("warning: ")]
    if len(lines) != 1:
        return f"{len(lines)} lines"
    message = lines[0].removeprefix("gpu-spots: ")
    if "internal error" in message:
        return "internal error"
    names = {
        os.path.basename(word)
        for word in (*files, *result["command"])
        if word not in (".", "find", "info", "read", "score")
    }
    # a log can name a file elsewhere; an option's own usage error names the option
    if not (
        re.match(r"(\.\.)?/", message) or any(name in message for name in names if name)
    ) and not (result["status"] == 2 and re.search(r"-\w", message)):
        return "no subject"
    return "" if ": " in message else "no subject"
