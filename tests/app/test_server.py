"""The page's server: whom it answers, what it answers, and what is left when it has ended."""

from __future__ import annotations

import json
import os
import random
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.client import Client
from app.folder import Work, make_folder

pytest.importorskip("gradio", reason="the page needs Gradio: pip install 'didae[app]'")

from didae.app.desk import Desk
from didae.app.page import serve
from didae.app.uploads import UploadLimits
from didae.errors import DidaeError

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

LIMITS = UploadLimits(archive_bytes=50_000)
REQUESTS = int(os.environ.get("DIDAE_FUZZ_REQUESTS", "200"))


def files(folder: Path) -> list[Path]:
    # Folders that vanish while they are listed are left out, which `rglob` does not do.
    return [Path(root) / name for root, _, names in os.walk(folder) for name in names]


def holds(check: Callable[[], bool]) -> None:
    """Wait for what the server does after it has answered."""
    until = time.monotonic() + 5
    while not check() and time.monotonic() < until:
        time.sleep(0.02)
    assert check()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = make_folder(tmp_path_factory.mktemp("served") / "run")
    (folder / "run.yaml").write_text("secret: SECRET\n")
    (folder / "secret.txt").write_text("SECRET")
    return folder


@pytest.fixture(scope="module")
def client(folder) -> Iterator[Client]:
    with serve(Desk(folder, Work().actions, LIMITS)) as address:
        yield Client(address)


@pytest.fixture
def scratch() -> Path:
    return Path(os.environ["GRADIO_TEMP_DIR"])


def test_the_address_lets_in_once_and_the_cookie_from_then_on(client) -> None:
    status, headers, _ = client.ask(f"/?token={client.token}", Cookie=None)
    assert (status, headers["location"]) == (303, "/")
    assert client.cookie in headers["set-cookie"]
    assert {"HttpOnly", "SameSite=lax"} <= set(headers["set-cookie"].split("; "))
    status, headers, body = client.ask("/")
    assert status == 200
    assert b"didae" in body
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert client.token.encode() not in body


@pytest.mark.parametrize("cookie", [None, "didae=1", "PORT=", "PORT=0", "PORT=é", "x" * 4000])
@pytest.mark.parametrize(
    "path", ["/", "/config", "/gradio_api/queue/data", "/download/main/report"]
)
def test_without_the_token_nothing_is_answered(client, cookie: str | None, path: str) -> None:
    given = cookie and cookie.replace("PORT", f"didae-{client.port}").encode().decode("latin-1")
    for token in ("", "?token=", "?token=0", "?token=%ff%00", f"?token={client.token[:-1]}"):
        status, _, body = client.ask(path + token, Cookie=given)
        assert (status, b"whole address" in body) == (403, True)


@pytest.mark.parametrize(
    "host",
    ["evil.test", "evil.test:PORT", "127.0.0.1.evil.test:PORT", "localhost.evil.test", "0.0.0.0",
     "127.0.0.1@evil.test", "127.0.0.1:PORT@evil.test", "[::ffff:127.0.0.1]", "192.168.0.1:PORT",
     "localhost.", "", "[", None],
)  # fmt: skip
def test_a_foreign_host_is_refused_whatever_it_knows(client, host: str | None) -> None:
    host = host and host.replace("PORT", str(client.port))
    assert client.ask("/", Host=host)[0] in (400, 403)
    assert client.ask(f"/?token={client.token}", Host=host)[0] in (400, 403)
    assert client.upload(10) == 200


@pytest.mark.parametrize("host", ["localhost:PORT", "LOCALHOST:9000", "127.0.0.1", "[::1]:PORT"])
def test_this_machine_may_be_named_and_forwarded(client, host: str) -> None:
    host = host.replace("PORT", str(client.port))
    assert client.ask("/", Host=host)[0] == 200
    assert client.ask("/", Host=host, Origin=f"http://{host}")[0] == 200


@pytest.mark.parametrize(
    "origin",
    ["http://evil.test", "null", "http://127.0.0.1", "http://localhost:PORT", "file://",
     "https://127.0.0.1:PORT", "http://127.0.0.1:1", "http://127.0.0.1:PORT.evil.test", ""],
)  # fmt: skip
def test_a_foreign_origin_is_refused_whatever_it_knows(client, origin: str) -> None:
    origin = origin.replace("PORT", str(client.port))
    for method, path in (("GET", "/"), ("POST", "/gradio_api/queue/join"), ("OPTIONS", "/")):
        status, headers, _ = client.ask(path, method, Origin=origin)
        assert status == 403
        assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize(
    "name", ["run.yaml", "secret.txt", "verdicts.json", "images/test/00000.png"]
)
def test_no_file_is_served(client, folder, name: str) -> None:
    for path in (str(folder / name), "/etc/passwd", f"http://{client.host}/config"):
        for kind in ("file=", "file/", "proxy=", "stream/", "../"):
            assert client.ask(f"/gradio_api/{kind}{path}")[0] == 404
    for path in (f"main/../{name}", f"main/{name}", "main/%2e%2e%2frun.yaml", "x/report", "main/"):
        assert client.ask(f"/download/{path}")[0] == 404


def test_files_to_take_home(client, folder) -> None:
    status, headers, body = client.ask("/download/main/report")
    assert (status, headers["cache-control"]) == (200, "no-store")
    assert body == (folder / "report.html").read_bytes()
    assert "attachment" in headers["content-disposition"]
    assert client.ask("/download/main/model")[0] == 404


def test_uploads_are_bounded_in_size_number_and_total(client, scratch) -> None:
    assert client.upload(10_000) == 200
    assert client.upload(60_000) == 413
    assert client.upload(20_000, files=4) == 413
    for number in range(30):
        assert client.upload(9_000, f"{number}.zip", files=1 + number % 3) == 200
    holds(lambda: len(files(scratch)) <= 3)
    assert not [path for path in files(scratch) if path.parent == scratch]


def test_an_upload_that_breaks_off_leaves_nothing(client, scratch) -> None:
    def begun() -> bool:
        return any(path.parent == scratch for path in files(scratch))

    with socket.create_connection(("127.0.0.1", client.port)) as wire:
        wire.sendall(
            f"POST /gradio_api/upload HTTP/1.1\r\nHost: {client.host}\r\n"
            f"Cookie: {client.cookie}\r\n"
            "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 40000\r\n\r\n"
            '--x\r\nContent-Disposition: form-data; name="files"; filename="a.zip"\r\n\r\n'.encode()
            + bytes(20_000)
        )
        holds(begun)
    holds(lambda: not begun())


def test_requests_that_no_click_sends_change_nothing_and_the_page_stays_up(client, folder) -> None:
    """Set DIDAE_FUZZ_REQUESTS for more of them."""
    rng = random.Random(0)
    file = {"path": str(folder / "secret.txt"), "meta": {"_type": "gradio.FileData"}}
    words = ["", "main:1", "main:99", "../..", "own", "-1", "<script>", "\0", "é" * 50, "a" * 900,
             "http://evil.test/x", None, 1e308, [], {}, [[[]]], True, file, {"url": "file:///"},
             ]  # fmt: skip
    paths = ["/gradio_api/upload", "/config", "/", "/download/main/", "/gradio_api/run/predict",
             "/gradio_api/call/x", "/gradio_api/component_server", "/gradio_api/file=",
             "/assets/../", "/static/%2e%2e/", "/gradio_api/queue/data"]  # fmt: skip
    for number in range(REQUESTS):
        values = [rng.choice(words) for _ in range(rng.randrange(5))]
        document = {"data": values, "fn_index": rng.randrange(-2, 16), "session_hash": str(number),
                    "trigger_id": rng.choice([*range(40), None]), "event_data": None}  # fmt: skip
        body = json.dumps(document).encode()
        if rng.random() < 0.2:
            body = rng.randbytes(rng.randrange(300))
        path = rng.choice(["/gradio_api/queue/join", rng.choice(paths)])
        if rng.random() < 0.2:
            path += rng.choice(["a", "%00", "..%2f" * 5, "/etc/passwd", "?session_hash=1"])
        # What streams an answer is waited for by the browser alone.
        method = "POST" if "queue" in path else rng.choice(["GET", "POST", "PUT"])
        kind = rng.choice(["application/json", "multipart/form-data; boundary=x", "text/plain"])
        _, _, answer = client.ask(path, method, body, Content_Type=kind)
        assert b"SECRET" not in answer
        assert b"root:" not in answer
    assert client.ask("/")[0] == 200
    assert not (folder / "own").exists() or not list((folder / "own").iterdir())
    assert (folder / "secret.txt").read_text() == "SECRET"


def test_the_page_listens_on_this_machine_only_and_says_if_a_port_is_taken(client, folder) -> None:
    desk = Desk(folder, Work().actions, LIMITS)
    with pytest.raises(DidaeError, match=f"port {client.port} is taken"), serve(desk, client.port):
        pass


def test_nothing_is_left_behind(folder) -> None:
    with serve(Desk(folder, Work().actions, LIMITS)) as address:
        scratch = Path(os.environ["GRADIO_TEMP_DIR"])
        assert Client(address).upload(100) == 200
        assert list(scratch.iterdir())
    assert not scratch.exists()
