"""Requests to the page."""

from __future__ import annotations

import http.client
import os
from urllib.parse import urlsplit


class Client:
    """Sends requests to the page as they are, without a browser's manners."""

    def __init__(self, address: str) -> None:
        self.port = urlsplit(address).port or 0
        self.token = address.partition("token=")[2]
        self.cookie = f"didae-{self.port}={self.token}"
        self.host = f"127.0.0.1:{self.port}"

    def ask(
        self, path: str, method: str = "GET", body: bytes | None = None, **headers: str | None
    ) -> tuple[int, dict[str, str], bytes]:
        given = {"Host": self.host, "Cookie": self.cookie}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in given.items():
            if value is not None:
                connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        try:
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def upload(self, size: int, name: str = "a.zip", files: int = 1) -> int:
        part = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        body = b"".join(part.encode() + os.urandom(size) + b"\r\n" for _ in range(files))
        kind = "multipart/form-data; boundary=x"
        path = "/gradio_api/upload"
        return self.ask(path, "POST", body + b"--x--\r\n", Content_Type=kind)[0]
