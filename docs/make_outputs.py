"""Renew the outputs of commands in the documentation.

``python docs/make_outputs.py`` runs the commands and the Python code of ``tutorial.md``, in their
order and in a folder of their own. In each page of `PAGES`, a block of text after one of these
commands, or after the code, is what it printed. A line ``...`` in a block stands for lines that
are left out, and ``...`` at the end of a line for its rest: around these, numbers are renewed.
"""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).parent
PAGES = (DOCS / "tutorial.md", DOCS / "ratios.md", DOCS.parent / "README.md")
CODE = re.compile(r"^```(sh|python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r" *[-+]?\d[\d.]*(?:e-?\d+)?")
DEMO = "make demo", ("gpu-spots find", "gpu-spots score")
"""The command that runs others, and the beginnings of those whose outputs the README shows."""


def main() -> None:
    """Run the tutorial, and write every page that is not up to date."""
    printed = outputs_of((DOCS / "tutorial.md").read_text())
    demo, parts = DEMO
    printed[demo] = "".join(next(t for c, t in printed.items() if c.startswith(p)) for p in parts)
    for path in PAGES:
        text = path.read_text()
        if (made := with_outputs(text, printed)) != text:
            path.write_text(made)
            print(f"{path}: written")


def commands(code: str) -> list[str]:
    """Return the commands of a block, without their comments."""
    lines = code.replace("\\\n", "").splitlines()
    return [shlex.join(shlex.split(line, comments=True)) for line in lines]


def outputs_of(page: str) -> dict[str, str]:
    """Run the blocks of a page. Return what each command, and each block of Python, printed."""
    here = Path.cwd()
    printed: dict[str, str] = {}
    names: dict[str, object] = {"__name__": "__main__"}
    programs = sysconfig.get_path("scripts") + os.pathsep + os.environ["PATH"]
    os.environ |= {"PATH": programs, "MPLBACKEND": "agg"}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for language, code in CODE.findall(page):
            if language == "python":
                with contextlib.redirect_stdout(io.StringIO()) as out:
                    exec(code, names)
                printed[code] = out.getvalue()
            for command in commands(code) if language == "sh" else ():
                ended = subprocess.run(
                    shlex.split(command),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    check=False,
                )
                if ended.returncode:
                    sys.exit(f"{command}: exit status {ended.returncode}\n{ended.stdout}")
                printed[command] = ended.stdout
        os.chdir(here)
    return printed


def with_outputs(page: str, printed: dict[str, str]) -> str:
    """Return a page whose blocks of text have the outputs of the commands before them."""
    latest = ""

    def renewed(block: re.Match[str]) -> str:
        nonlocal latest
        language, code = block.groups()
        if language == "text":
            output, latest = latest, ""
            return f"```text\n{with_numbers(code, output)}```" if output else block[0]
        names = commands(code) if language == "sh" else [code]
        latest = next((printed[name] for name in reversed(names) if name in printed), "")
        return block[0]

    return CODE.sub(renewed, page)


def with_numbers(block: str, output: str) -> str:
    """Return a block with the output, or with its lines if the block leaves some out.

    A line "9 spots, ..." and the output "10 spots, 2 s" give "10 spots, ...".

    Raises:
        ValueError: a line of the block is not in the output, whatever its numbers are.
    """
    if "..." not in block:
        return output
    rest = iter(output.splitlines())
    return "".join(f"{renewed_line(line, rest)}\n" for line in block.splitlines())


def renewed_line(line: str, rest: Iterator[str]) -> str:
    """Return the next line of an output that differs from a line in its numbers only."""
    if line == "...":
        return line
    kept = line.removesuffix("...")
    shape = re.escape(NUMBER.sub("#", kept)).replace(r"\#", NUMBER.pattern)
    for candidate in rest:
        if found := re.match(shape if kept != line else f"{shape}$", candidate):
            return found[0] + line[len(kept) :]
    raise ValueError(f"{line!r}: no such line in the output; write the block anew by hand")


if __name__ == "__main__":
    main()
