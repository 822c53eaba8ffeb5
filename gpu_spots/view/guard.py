"""Protection of the local server: token, host name, methods, and headers of every answer."""

import secrets
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOSTS = ("127.0.0.1", "localhost", "[::1]")
"""Host names that a browser on this machine, or at the end of a tunnel, can ask for."""
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
"""Headers of every answer."""


def new_token() -> str:
    """Return a random text that nobody can guess, for the address of the page."""
    return secrets.token_urlsafe(24)


class Guard:
    """ASGI application that passes only requests with the token, for this host, that read.

    Another program or page on the machine does not know the token. A page of another site that lets
    its name point to this machine asks for another host name.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        """Protect ``app`` with a token."""
        self._app, self._token = app, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse to."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, _with_headers(send))
            return
        status, text = refusal
        start = {
            "type": "http.response.start",
            "status": int(status),
            "headers": [(b"content-type", b"text/plain; charset=utf-8")],
        }
        protected = _with_headers(send)
        await protected(start)
        await protected({"type": "http.response.body", "body": f"{text}\n".encode()})

    def _refusal(self, scope: Scope) -> tuple[HTTPStatus, str] | None:
        """Return status and text if a request is refused; None: it is not."""
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        host = hosts[0].decode("latin-1") if len(hosts) == 1 else ""
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if name.lower() not in HOSTS:
            return HTTPStatus.FORBIDDEN, "this host name is not served"
        if scope["method"] not in ("GET", "HEAD"):
            return HTTPStatus.METHOD_NOT_ALLOWED, "nothing can be changed here"
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        if len(given) != 1 or not secrets.compare_digest(given[0].encode(), self._token):
            return (
                HTTPStatus.FORBIDDEN,
                "wrong or missing token; use the address that gpu-spots view prints",
            )
        return None


def _with_headers(send: Send) -> Callable[[Message], Awaitable[None]]:
    """Add the headers to an answer."""

    async def protected(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [item for item in message.get("headers", []) if item[0].decode() not in HEADERS]
            added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            message = {**message, "headers": [*kept, *added]}
        await send(message)

    return protected
