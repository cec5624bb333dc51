"""The server of the page: on this machine only, for those who know its token."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import secrets
import shutil
import socket
import threading
from collections.abc import Generator
from http import HTTPStatus
from pathlib import Path
from typing import Final

import uvicorn
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from didae.errors import DidaeError

_logger = logging.getLogger(__name__)

HOST: Final = "127.0.0.1"
_UPLOAD: Final = "/gradio_api/upload"

# Whoever rebinds a name to this machine keeps that name; a forwarded port may have any number.
_HOSTS: Final = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d*)?", re.IGNORECASE)
_PATHS: Final = frozenset({
    "/", "/config", "/theme.css", "/favicon.ico", "/gradio_api/startup-events",
    "/gradio_api/queue/join", "/gradio_api/queue/data", "/gradio_api/upload_progress", _UPLOAD,
})  # fmt: skip
_FOLDERS: Final = ("/assets/", "/static/", "/download/", "/gradio_api/heartbeat/")
"""What the page asks for; the framework would answer much else."""

_BODY: Final = 1 << 20
_KEPT_UPLOADS: Final = 2
_SECONDS: Final = 10
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    "frame-ancestors 'none'; form-action 'self'; base-uri 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_ASK = "This page needs the whole address that `didae app` printed, with its token.\n"


class Guard:
    """Lets through what the page itself asks for, and nothing from anybody else.

    A page of another site may reach this one by a name of its own that it binds to this machine,
    or by a request sent from a visitor's browser: `Host` and `Origin` give both away. Another
    user of this machine may send what he likes, but does not know the token.
    """

    def __init__(self, app: ASGIApp, port: int, scratch: Path, upload_bytes: int) -> None:
        self.app, self.scratch, self.upload_bytes = app, scratch, upload_bytes
        self.token = secrets.token_hex(24)
        # Cookies are shared by all ports of a machine.
        self.cookie = f"didae-{port}"
        self._uploading = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, as ASGI asks for."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            answer = self._answer(Request(scope))
            await (answer or self._through)(scope, receive, _with_headers(send))

    def _answer(self, request: Request) -> Response | None:
        """Refuse a request, or let its browser in; None is to let it through."""
        hosts, origins = request.headers.getlist("host"), request.headers.getlist("origin")
        if len(hosts) != 1 or not _HOSTS.fullmatch(hosts[0]):
            return _refusal("This page has another address.\n")
        if any(origin != f"http://{hosts[0]}" for origin in origins):
            return _refusal("This page answers to itself only.\n")
        path = request.scope["path"]
        if path == "/" and self._is_token(request.query_params.get("token", "")):
            # From here on the token is in no address that is shown, kept or sent along.
            answer = RedirectResponse("/", HTTPStatus.SEE_OTHER)
            answer.set_cookie(self.cookie, self.token, httponly=True, samesite="lax")
            return answer
        if not self._is_token(request.cookies.get(self.cookie, "")):
            return _refusal(_ASK)
        if path not in _PATHS and not path.startswith(_FOLDERS):
            return _refusal("There is no such page.\n", HTTPStatus.NOT_FOUND)
        return None

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(errors="replace"), self.token.encode())

    async def _through(self, scope: Scope, receive: Receive, send: Send) -> None:
        upload = scope["path"] == _UPLOAD
        receive = _bounded(receive, self.upload_bytes if upload else _BODY)
        try:
            if upload:
                await self._upload(scope, receive, send)
            else:
                await self.app(scope, receive, send)
        except Exception as error:  # noqa: BLE001 - a request that is not understood ends alone
            _logger.info("the page could not answer %s: %s", scope["path"], error)

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take files one after the other, and keep no more of them than can be waiting."""
        async with self._uploading:
            before = _entries(self.scratch)
            for path in before[:-_KEPT_UPLOADS]:
                _remove(path)
            complete = False

            async def watch(message: Message) -> None:
                nonlocal complete
                complete = complete or message.get("status") == HTTPStatus.OK
                await send(message)

            try:
                await self.app(scope, receive, watch)
            finally:
                new = [path for path in _entries(self.scratch) if path not in before]
                for path in new[:-1] if complete else new:
                    _remove(path)


@contextlib.contextmanager
def listening(app: ASGIApp, found: socket.socket) -> Generator[None]:
    """Answer what comes in at a socket for as long as the context lasts."""
    config = uvicorn.Config(
        app, log_config=None, log_level="error", proxy_headers=False, server_header=False,
        ws="none", timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([found],), daemon=True)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            thread.join(0.01)
        if not server.started:
            raise DidaeError("the page could not be served: see the message above.")
        yield
    finally:
        server.should_exit = True
        thread.join(_SECONDS)


def bound(port: int) -> socket.socket:
    """Take a port of this machine; 0 is any that is free."""
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise DidaeError(f"port {port} is taken: choose another with --port.") from error


def _refusal(words: str, status: HTTPStatus = HTTPStatus.FORBIDDEN) -> Response:
    return PlainTextResponse(words, status)


def _bounded(receive: Receive, limit: int) -> Receive:
    """Count the body of a request while it comes in, whatever it says of its length."""
    total = 0

    async def counted() -> Message:
        nonlocal total
        message = await receive()
        total += len(message.get("body", b""))
        if total > limit:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        return message

    return counted


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            extra = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
            message = {**message, "headers": [*message["headers"], *extra]}
        await send(message)

    return sent


def _entries(folder: Path) -> list[Path]:
    """List what is in a folder, oldest first; some of it may be removed meanwhile."""
    return sorted(folder.iterdir(), key=lambda path: os.path.getctime(path) if path.exists() else 0)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
