"""What stands before the server: who may ask, and what a browser may do with the answer."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "faceflax_token"

HEADERS = {
    # Whatever a page asks for beyond this server is refused by the browser itself.
    "content-security-policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Tells whether only this machine reaches an address.

    Example:
        >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
        (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Lets requests through to an ASGI application.

    Without a token only those that name this machine itself are: the page of another site cannot ask in a visitor's
    name (DNS rebinding). With a token, those that bring it: as ``Authorization: Bearer TOKEN``, or once as ``?token=``
    in the address, which is then remembered in a cookie. ``/healthz`` is open to all.

    Args:
        application: what is behind.
        token: None where the server is bound to this machine alone.
    """

    def __init__(self, application: Application, token: str | None = None) -> None:
        self._application = application
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers, or passes on."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._application(scope, receive, send)
            return  # there are no WebSockets here
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if self._token is None:
            if not is_loopback(_host(headers.get("host", ""))):
                await _say(send, 403, "This server answers only to requests of its own machine.")
                return
        elif scope["path"] != "/healthz":
            query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
            if self._right(query.pop("token", "")) and scope["method"] == "GET":
                cookie = f"{COOKIE}={quote(self._token or '', safe='')}; Path=/; HttpOnly; SameSite=Strict"
                place = scope["path"] + (f"?{urlencode(query)}" if query else "")
                await _say(send, 303, "", {"location": place, "set-cookie": cookie})
                return
            cookies = SimpleCookie(headers.get("cookie", ""))
            known = unquote(cookies[COOKIE].value) if COOKIE in cookies else ""
            if not self._right(known) and not self._right(headers.get("authorization", "").removeprefix("Bearer ")):
                said = "This server needs its token: add ?token=TOKEN to the address, or send Authorization: Bearer."
                await _say(send, 401, said, {"www-authenticate": "Bearer"})
                return

        async def answer(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message.get("headers", [])}
                more = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *(h for h in more if h[0] not in given)]
            await send(message)

        await self._application(scope, receive, answer)

    def _right(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), (self._token or "").encode())


def _host(header: str) -> str:
    """The host of a Host header, without its port."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


async def _say(send: Send, status: int, text: str, headers: dict[str, str] | None = None) -> None:
    fields = {"content-type": "text/plain; charset=utf-8"} | HEADERS | (headers or {})
    encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": text.encode()})
