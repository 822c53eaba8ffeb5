"""Web application: the page, and what it asks for, by GET."""

import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gpu_spots.errors import GpuSpotsError, ParameterError
from gpu_spots.pictures import Contrast
from gpu_spots.view.guard import Guard
from gpu_spots.view.viewed import Viewed

PAGE = {
    "index.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "common.js": "text/javascript; charset=utf-8",
    "picture.js": "text/javascript; charset=utf-8",
    "panels.js": "text/javascript; charset=utf-8",
    "main.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
"""Files of the page, by name, and their types. They are read once; a request names none of them."""

Answer = Callable[[Request], Any]


def make_app(viewed: Viewed, token: str) -> Guard:
    """Return the application, which only answers requests with the token.

    Args:
        viewed: Results and frames.
        token: Text that every request must have as ``token``.
    """
    page = files("gpu_spots.view") / "page"
    contents = {name: (page / name).read_text(encoding="utf-8") for name in PAGE}
    contents["index.html"] = contents["index.html"].replace("{token}", token)
    routes = [Route("/", _fixed(contents["index.html"], PAGE["index.html"]))]
    routes += [
        Route(f"/{name}", _fixed(text, PAGE[name]))
        for name, text in contents.items()
        if name != "index.html"
    ]
    answers: dict[str, Answer] = {
        "run": lambda _: viewed.run(),
        "picture": partial(_picture, viewed),
        "contrast": lambda asked: viewed.contrast(_text(asked, "of"), _integer(asked, "frame")),
        "masks": lambda asked: viewed.masks(_integer(asked, "frame"), _text(asked, "kind")),
        "spots": lambda asked: viewed.spots(_integer(asked, "frame")),
        "spot": lambda asked: viewed.spot(_integer(asked, "row")),
        "ranked": lambda asked: viewed.ranked(_text(asked, "by"), _integer(asked, "rank")),
        "pixel": lambda asked: viewed.pixel(
            _integer(asked, "frame"), _integer(asked, "X"), _integer(asked, "Y")
        ),
        "tuned": lambda asked: viewed.tuned(_integer(asked, "frame"), _changes(asked)),
        "false": lambda asked: viewed.false_spots(_integer(asked, "frame"), _changes(asked)),
    }
    routes += [Route(f"/api/{name}", _answered(answer)) for name, answer in answers.items()]
    return Guard(Starlette(routes=routes), token)


def _fixed(text: str, kind: str) -> Any:
    """Return the endpoint of a file of the page."""

    async def endpoint(_: Request) -> Response:
        return Response(text, media_type=kind)

    return endpoint


def _answered(answer: Answer) -> Any:
    """Return an endpoint that computes an answer in a thread; errors of the user are one line."""

    async def endpoint(request: Request) -> Response:
        try:
            found = await run_in_threadpool(answer, request)
        except ParameterError as error:
            return _json({"error": str(error)}, 400)
        except IndexError as error:
            return _json({"error": str(error)}, 400)
        except GpuSpotsError as error:
            return _json({"error": str(error)}, 409)
        except MemoryError:
            return _json({"error": "out of memory"}, 500)
        except Exception as error:  # the page says it, and the server goes on
            text = " ".join(str(error).split())
            words = f"internal error: {type(error).__name__}: {text}; please report it"
            return _json({"error": words}, 500)
        if isinstance(found, bytes):
            return Response(found, media_type="image/png")
        return _json(found)

    return endpoint


def _json(found: Mapping[str, Any], status: int = 200) -> Response:
    # ASCII: names from files may be no valid text
    text = json.dumps(found, allow_nan=False, separators=(",", ":"))
    return Response(text, status, media_type="application/json")


def _picture(viewed: Viewed, asked: Request) -> bytes:
    region = tuple(_integer(asked, name) for name in ("x0", "x1", "y0", "y1"))
    contrast = Contrast(_number(asked, "low"), _number(asked, "high"), _text(asked, "scale"))
    if not contrast.low < contrast.high:
        raise ParameterError("low", f"{contrast.low:g} is not below high, {contrast.high:g}")
    assert len(region) == 4
    return viewed.picture(
        _text(asked, "of"),
        _integer(asked, "frame"),
        region,
        _integer(asked, "bin"),
        contrast,
        _text(asked, "palette"),
    )


def _changes(asked: Request) -> dict[str, Any]:
    """Return the options of the finder that are asked for."""
    found: dict[str, Any] = {}
    for name, read in (
        ("finder", _text),
        ("cutoff", _number),
        ("significance", _number),
        ("erosions", _integer),
        ("dilations", _integer),
    ):
        if name in asked.query_params:
            found[name] = read(asked, name)
    for name, most in (("erosions", 50), ("dilations", 50)):
        if found.get(name, 0) > most:
            raise ParameterError(name, f"{found[name]} is more than {most}")
    if "connectivity" in asked.query_params:
        found["structure"] = (2, _integer(asked, "connectivity"))
    if "streaks" in asked.query_params:
        found["streaks"] = _text(asked, "streaks") == "1"
    return found


def _text(asked: Request, name: str) -> str:
    if name not in asked.query_params:
        raise ParameterError(name, "is missing")
    return asked.query_params[name]


def _integer(asked: Request, name: str) -> int:
    text = _text(asked, name)
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 16):
        raise ParameterError(name, f"{text[:40]!r} is not an integer")
    return int(text)


def _number(asked: Request, name: str) -> float:
    text = _text(asked, name)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ParameterError(name, f"{text[:40]!r} is not a finite number")
    return value
