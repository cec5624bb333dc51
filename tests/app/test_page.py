"""The whole page end to end, as a person uses it, on a laptop and on a phone."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.folder import REASON, Work, events, make_folder, refused, repaired
from app.test_views import HOSTILE

pytest.importorskip("gradio", reason="the page needs Gradio: pip install 'didae[app]'")

from didae.app.desk import Desk
from didae.app.page import serve
from didae.app.uploads import UploadLimits
from didae.errors import DidaeError

pytestmark = [pytest.mark.browser, pytest.mark.allow_hosts(["127.0.0.1"])]

LAPTOP, PHONE = (1280, 800), (390, 844)
SIZES = pytest.mark.parametrize("size", [LAPTOP, PHONE], ids=["laptop", "phone"])


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def folder(tmp_path) -> Path:
    return make_folder(tmp_path / "run", 24)


@pytest.fixture
def address(folder, work) -> Iterator[str]:
    with serve(Desk(folder, work.actions, UploadLimits(), "ada")) as address:
        yield address
        work.go_on.set()


class Visitor:
    """A person in front of the page; every check waits until it holds."""

    def __init__(self, chromium, address: str, size: tuple[int, int], shots: Path) -> None:
        from playwright.sync_api import expect

        expect.set_options(timeout=20_000)
        self.expect, self.shots, self.size = expect, shots, size
        self.context = chromium.new_context(
            viewport={"width": size[0], "height": size[1]},
            has_touch=size == PHONE,
            device_scale_factor=2 if size == PHONE else 1,
        )
        self.problems: list[str] = []
        self.page = self.context.new_page()
        self.page.set_default_timeout(30_000)
        self.page.on("request", self._only_here)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("dialog", lambda dialog: self.problems.append(dialog.message))
        self.page.goto(address)
        self.expect(self.page.locator(".judge")).to_be_attached()

    def _only_here(self, request) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "data:", "blob:")):
            self.problems.append(request.url)

    def sees(self, words: str) -> None:
        self.expect(self.page.get_by_text(words).locator("visible=true").first).to_be_visible()

    def is_at(self, direction: str, place: int) -> None:
        self.sees(f"Direction {place} of 4")
        self.expect(self.page.locator(".judge h2")).to_contain_text(direction)

    def click(self, control: str) -> None:
        self.page.locator(f"#{control}").click()

    def open(self, tab: str) -> None:
        self.page.get_by_role("tab", name=tab).click()

    def photograph(self, name: str) -> None:
        self.page.wait_for_timeout(300)
        stem = f"{self.size[0]}_{name}"
        self.page.screenshot(path=self.shots / f"{stem}.png")
        self.page.screenshot(path=self.shots / f"{stem}_whole.png", full_page=True)
        assert self.page.evaluate("document.documentElement.scrollWidth") <= self.size[0]

    def leave(self) -> None:
        self.context.close()
        assert self.problems == []


@pytest.fixture
def visit(chromium, address, shots) -> Iterator[object]:
    visitors: list[Visitor] = []

    def come(size: tuple[int, int]) -> Visitor:
        visitors.append(Visitor(chromium, address, size, shots))
        return visitors[-1]

    yield come
    for visitor in visitors:
        visitor.leave()


@SIZES
def test_open_judge_undo_reload_repair_download(visit, folder, work, size, tmp_path) -> None:
    visitor = visit(size)
    visitor.is_at("background", 1)
    visitor.photograph("1_open")
    visitor.page.mouse.wheel(0, 600)
    visitor.page.wait_for_function("window.scrollY > 300")
    visitor.click("verdict-spurious")
    visitor.sees("1 judged")
    visitor.sees("Direction 2 of 4")
    # The next direction is shown from its beginning.
    visitor.page.wait_for_function("window.scrollY === 0")
    visitor.click("verdict-broken")
    visitor.sees("Direction 3 of 4")
    visitor.click("undo")
    visitor.sees("Direction 2 of 4")
    visitor.sees("1 judged")

    visitor.page.reload()
    visitor.sees("Direction 2 of 4")
    visitor.sees("1 judged")
    for place in (2, 3, 4):
        visitor.sees(f"Direction {place} of 4")
        visitor.click("verdict-causal")
    visitor.sees("all judged")
    visitor.photograph("2_judged")
    visitor.click("onward")
    visitor.expect(visitor.page.locator("#repair")).to_be_enabled()
    visitor.photograph("3_before_repair")

    visitor.click("repair")
    visitor.sees("Training")
    visitor.expect(visitor.page.locator("#repair")).to_be_disabled()
    visitor.photograph("4_repairing")
    visitor.page.reload()
    visitor.sees("Training")
    work.go_on.set()
    visitor.sees("Result of the repair")
    visitor.sees(repaired()["decision"]["reason"])
    visitor.sees("bright square, dark background")
    visitor.photograph("5_repaired")
    assert work.calls == [("repair", str(folder))]

    for name, check in (("model", _is_model), ("verdicts", _is_audit), ("report", _is_report)):
        with visitor.page.expect_download() as download:
            visitor.click(f"download-{name}")
        target = tmp_path / download.value.suggested_filename
        download.value.save_as(target)
        check(target)
    # The next day, in another browser.
    later = visit(size)
    later.open("Repair")
    later.sees("Result of the repair")


def _is_model(path: Path) -> None:
    assert path.name == "repaired_model.zip"
    with zipfile.ZipFile(path) as archive:
        assert archive.read("student/model.safetensors") == b"weights"


def _is_audit(path: Path) -> None:
    assert path.name == "verdicts.json"
    text = path.read_text()
    assert "broken" in text
    assert "ada" in text
    json.loads(text)


def _is_report(path: Path) -> None:
    assert path.name == "report.html"
    assert "What the classifier looks at" in path.read_text()


def test_keys(visit) -> None:
    visitor = visit(LAPTOP)
    press = visitor.page.keyboard.press
    visitor.is_at("background", 1)
    for place, key in enumerate("csu", start=2):
        press(key)
        visitor.sees(f"Direction {place} of 4")
    press("B")
    visitor.sees("all judged")
    visitor.expect(visitor.page.locator("#verdict-broken")).to_have_class(re.compile("chosen"))
    for judged in (3, 2):
        press("z")
        visitor.sees(f"{judged} judged")
    visitor.sees("Direction 3 of 4")
    press("ArrowLeft")
    visitor.sees("Direction 2 of 4")
    press("ArrowRight")
    visitor.sees("Direction 3 of 4")
    # No key does anything in a text field, with Ctrl, or on another tab.
    press("Control+c")
    visitor.open("Own images")
    visitor.page.locator("#path textarea, #path input").first.fill("csub")
    visitor.page.keyboard.type("csubz")
    visitor.open("Repair")
    visitor.page.locator("body").press("c")
    visitor.open("Judge")
    visitor.sees("2 judged")


def test_fast_keys_judge_only_what_is_on_the_screen(visit) -> None:
    visitor = visit(LAPTOP)
    visitor.page.evaluate(
        "for (const id of ['causal', 'spurious', 'causal', 'spurious'])"
        " document.getElementById('verdict-' + id).click()"
    )
    visitor.sees("1 judged")
    visitor.sees("Direction 2 of 4")
    visitor.page.wait_for_timeout(500)
    visitor.sees("1 judged")


def test_undo_with_nothing_to_undo_says_so(visit) -> None:
    visitor = visit(PHONE)
    visitor.click("undo")
    visitor.sees("nothing to undo")


def test_two_windows_see_each_other_after_a_reload(visit) -> None:
    first, second = visit(LAPTOP), visit(PHONE)
    first.click("verdict-causal")
    first.sees("1 judged")
    # The other window still shows the first direction, and judges that.
    second.click("verdict-spurious")
    second.sees("1 judged")
    # What it took over is no longer the first one's to take back.
    first.click("undo")
    first.sees("nothing to undo")
    first.page.reload()
    first.sees("1 judged")
    first.open("Repair")
    first.sees("background")
    first.expect(first.page.locator(".verdicts .chip.spurious")).to_be_visible()


@SIZES
def test_a_refused_repair_and_a_failed_one(visit, work, size) -> None:
    visitor = visit(size)
    visitor.click("verdict-spurious")
    visitor.sees("1 judged")
    visitor.open("Repair")
    work.result = refused()
    work.go_on.set()
    visitor.click("repair")
    visitor.sees("Not repaired: the original stays")
    visitor.sees(REASON)
    visitor.expect(visitor.page.locator("#download-model")).to_be_hidden()
    visitor.photograph("6_refused")
    work.failure = DidaeError(f"the disk is full; {HOSTILE}")
    visitor.click("repair")
    visitor.sees("the disk is full")
    visitor.expect(visitor.page.locator("#repair")).to_be_enabled()


def test_nothing_to_repair_is_said_before_it_is_tried(visit) -> None:
    visitor = visit(PHONE)
    visitor.open("Repair")
    visitor.sees("No direction is judged spurious yet")
    visitor.expect(visitor.page.locator("#repair")).to_be_disabled()


@SIZES
def test_own_images_as_zip(visit, folder, work, size) -> None:
    with zipfile.ZipFile(folder.parent / "mine.zip", "w") as archive:
        for path in sorted((folder / "images" / "test").glob("*.png"))[:5]:
            archive.write(path, path.name)
    work.pairs = True
    visitor = visit(size)
    visitor.open("Own images")
    visitor.sees("Your own images")
    visitor.photograph("7_own")
    visitor.page.locator("#archive input[type=file]").set_input_files(folder.parent / "mine.zip")
    visitor.sees("mine")
    visitor.page.locator("#student textarea, #student input").first.fill("x.onnx")
    visitor.click("audit")
    visitor.sees("Training the decoder")
    visitor.sees("two real photographs, not counterfactuals")
    visitor.photograph("8_auditing")
    visitor.page.reload()
    visitor.sees("Look at the pairs")
    visitor.open("Own images")
    visitor.sees("two real photographs, not counterfactuals")
    work.go_on.set()
    visitor.is_at("background", 1)
    visitor.expect(visitor.page.locator("#runs input")).to_have_value("Own images 1")
    visitor.photograph("9_own_run")
    visitor.click("verdict-causal")
    visitor.sees("1 judged")
    assert (folder / "own" / "001" / "run" / "verdicts.json").exists()
    assert not (folder / "verdicts.json").exists()
    visitor.page.reload()
    visitor.sees("1 judged")


def test_a_bad_upload_and_a_bad_path_say_why(visit, folder) -> None:
    (folder.parent / "bad.zip").write_bytes(b"this is no zip")
    visitor = visit(PHONE)
    visitor.open("Own images")
    visitor.click("audit")
    visitor.sees("give images")
    visitor.page.locator("#path textarea, #path input").first.fill("/no/such<b>folder")
    visitor.page.locator("#student textarea, #student input").first.fill("x.onnx")
    visitor.click("audit")
    visitor.sees("/no/such<b>folder is not a folder")
    visitor.page.locator("#archive input[type=file]").set_input_files(folder.parent / "bad.zip")
    visitor.sees("bad")
    visitor.click("audit")
    visitor.sees("this is not a zip file")
    assert list((folder / "own").iterdir()) == []


def test_hostile_names_stay_text(chromium, shots, tmp_path, work) -> None:
    folder = make_folder(tmp_path / "hostile", 12, (HOSTILE, "background", "x", "y"))
    with serve(Desk(folder, work.actions, UploadLimits())) as address:
        visitor = Visitor(chromium, address, PHONE, shots)
        for _ in range(4):
            visitor.click("next")
            visitor.page.wait_for_timeout(150)
        for _ in range(4):
            if visitor.page.locator(".judge h2").inner_text() == HOSTILE:
                break
            visitor.click("previous")
            visitor.page.wait_for_timeout(300)
        visitor.expect(visitor.page.locator(".judge h2")).to_have_text(HOSTILE)
        visitor.photograph("10_hostile")
        visitor.open("Repair")
        visitor.sees("not judged")
        visitor.leave()


def test_events_are_an_audit(visit, folder) -> None:
    visitor = visit(LAPTOP)
    visitor.click("verdict-causal")
    visitor.sees("1 judged")
    visitor.click("undo")
    visitor.sees("0 judged")
    first, second = events(folder)["events"]
    assert (first["verdict"], first["teacher"]) == ("causal", "ada")
    assert (second["verdict"], second["direction"]) == (None, first["direction"])


def test_a_rebound_name_reads_and_judges_nothing(chromium, address, folder) -> None:
    rebound, context = address.replace("127.0.0.1", "evil.test"), chromium.new_context()
    page = context.new_page()
    # Even who knows the token is refused by another name, and from a page of that name.
    assert page.goto(rebound).status == 403
    assert "another address" in page.content()
    context.new_page().goto(address)
    options = "{method: 'POST', credentials: 'include', mode: MODE, body: '{}'}"
    ask = (
        f"async url => {{ try {{ const r = await fetch(url, {options});"
        " return r.type + r.status + (await r.text()) } catch (error) { return 'blocked' } }"
    )
    for target in (rebound, address, address.split("?")[0] + "gradio_api/queue/join"):
        for mode in ("'no-cors'", "'cors'"):
            seen = page.evaluate(ask.replace("MODE", mode), target)
            assert seen in ("opaque0", "blocked") or seen.startswith("basic403")
    context.close()
    assert not (folder / "verdicts.json").exists()
