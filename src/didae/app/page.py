"""The page itself: controls, connected with what `views` draws and `desk` does."""

from __future__ import annotations

import logging
import os
import tempfile
import webbrowser
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse
from markupsafe import escape

from didae.app import views
from didae.app.desk import Desk
from didae.app.server import HOST, Guard, bound, listening
from didae.errors import DidaeError
from didae.teachers import VERDICTS, Verdict

# Gradio reads these when it is imported; a download of weights may need a proxy later. Its client
# is set up then and refuses proxies of kinds that it does not know, though it is never used.
_SETTINGS = {"GRADIO_ANALYTICS_ENABLED": "False", "no_proxy": "*"}
_before = {name: os.environ.pop(name, None) for name in _SETTINGS}
os.environ.update(_SETTINGS)
try:
    import gradio as gr
    from gradio.themes import Base
finally:
    for name, value in _before.items():
        os.environ.pop(name)
        os.environ.update({name: value} if value is not None else {})

_logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.5

_JUDGE, _REPAIR = "judge", "repair"

_FONTS = ("ui-sans-serif", "system-ui", "sans-serif")

_WINDOW = "() => (sessionStorage.window ??= crypto.randomUUID())"
_TO_TOP = "() => window.scrollTo({ top: 0 })"

_Updates = dict[Any, Any]
"""Component -> what becomes of it."""


@contextmanager
def serve(desk: Desk, port: int = 0, browser: bool = False) -> Generator[str]:
    """Serve the page on this machine only, for as long as the context lasts.

    Gives the address, with the token that opens it. Port 0 is any that is free.
    """
    with tempfile.TemporaryDirectory(prefix="didae-") as scratch, bound(port) as found:
        # Uploads pass through here and are gone afterwards.
        os.environ["GRADIO_TEMP_DIR"] = scratch
        port = found.getsockname()[1]
        guard = Guard(_mounted(desk), port, Path(scratch), desk.limits.archive_bytes)
        with listening(guard, found):
            address = f"http://{HOST}:{port}/?token={guard.token}"
            if browser:
                webbrowser.open(address)
            yield address


def _mounted(desk: Desk) -> FastAPI:
    """Lay the page out, connect it, and set it beside the files to take home."""
    with gr.Blocks(title="didae", analytics_enabled=False, fill_width=True) as page:
        _Page(desk).connect(page)
    # More clicks cannot be waiting.
    page.queue(max_size=64, api_open=False)
    app = FastAPI(openapi_url=None)

    @app.get("/download/{run}/{name}")
    def download(run: str, name: str) -> FileResponse:
        try:
            path = desk.downloads(desk.run(run))[name]
        except (DidaeError, KeyError) as error:
            raise HTTPException(404) from error
        return FileResponse(path, filename=path.name, headers={"Cache-Control": "no-store"})

    return gr.mount_gradio_app(
        app,
        page,
        "/",
        server_name=HOST,
        footer_links=[],
        run_history=False,
        mcp_server=False,
        enable_monitoring=False,
        root_path="",
        ssr_mode=False,
        show_error=False,
        max_file_size=desk.limits.archive_bytes,
        # The system's fonts, so that nothing is fetched from the network.
        theme=Base(font=_FONTS, font_mono=_FONTS),
        css=views.style(),
        js=views.asset("page.js"),
    )


class _Page:
    """The controls, laid out when this is made inside `gr.Blocks`, and what they do."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        with gr.Row(elem_id="top"):
            gr.HTML("<h1>didae</h1>", elem_id="brand")
            self.runs = gr.Dropdown(
                label="Run", show_label=False, container=False, elem_id="runs", filterable=False
            )
        # What is on this screen: sent along with every click.
        self.place = gr.Textbox(visible="hidden", elem_id="place")
        self.window = gr.Textbox(visible="hidden", elem_id="window")
        self.clock = gr.Timer(_POLL_SECONDS, active=False)
        with gr.Tabs(elem_id="tabs") as self.tabs:
            with gr.Tab("Judge", id=_JUDGE, elem_id="tab-judge") as self.judge_tab:
                self._lay_out_judge()
            with gr.Tab("Repair", id=_REPAIR, elem_id="tab-repair") as self.repair_tab:
                self._lay_out_repair()
            with gr.Tab("Own images", id="own"):
                self._lay_out_own()

    def _lay_out_judge(self) -> None:
        self.screen = gr.HTML(elem_id="screen")
        with gr.Column(elem_id="controls"):
            with gr.Row(elem_id="verdicts"):
                self.verdicts: dict[Verdict, gr.Button] = {
                    verdict: gr.Button(
                        f"{verdict.capitalize()}\n{views.MEANINGS[verdict]}",
                        elem_id=f"verdict-{verdict}",
                    )
                    for verdict in VERDICTS
                }
            with gr.Row(elem_id="walk"):
                self.previous = gr.Button("Previous", elem_id="previous", size="md")
                self.undo = gr.Button("Undo", elem_id="undo", size="md")
                self.next = gr.Button("Next", elem_id="next", size="md")
                self.onward = gr.Button(
                    "Continue to repair", elem_id="onward", size="md", variant="primary"
                )

    def _lay_out_repair(self) -> None:
        with gr.Column(elem_id="repairing"):
            self.judged = gr.HTML()
            self.repair = gr.Button("Repair the classifier", elem_id="repair", variant="primary")
            self.outcome = gr.HTML(elem_id="outcome")
            self.downloads = gr.HTML(elem_id="downloads")

    def _lay_out_own(self) -> None:
        with gr.Column(elem_id="own"):
            gr.HTML(views.own_intro(self.desk.limits))
            self.archive = gr.File(
                label="Images: a zip file", file_types=[".zip"], elem_id="archive", height=140
            )
            self.folder = gr.Textbox(
                label="… or a folder on this computer",
                placeholder="/home/me/photos",
                elem_id="path",
            )
            self.model = gr.File(
                label="Classifier: an ONNX file", file_types=[".onnx"], elem_id="model", height=140
            )
            self.student = gr.Textbox(
                label="… or where it is on this computer",
                placeholder="/home/me/classifier.onnx, timm:NAME, or a folder that didae wrote",
                elem_id="student",
            )
            self.audit = gr.Button("Start the audit", elem_id="audit", variant="primary")
            self.auditing = gr.HTML(elem_id="auditing")
            self.photographs = gr.HTML(elem_id="photographs")
            # The run whose photographs are shown: they are sent once, and not at every tick.
            self.shown = gr.Textbox(visible="hidden", elem_id="shown")

    def connect(self, page: gr.Blocks) -> None:
        """Say what every control does."""
        on = self._on
        judge = [self.place, self.screen, *self.verdicts.values(), self.onward]
        repair = [self.judged, self.outcome, self.repair, self.downloads]
        work = [self.clock, self.auditing, self.audit, self.photographs, self.shown]
        everything = [*judge, *repair, *work, self.runs, self.tabs]
        here = [self.place, self.window]
        on(page.load, self._load, [*everything, self.window], inputs=[self.window], js=_WINDOW)
        for verdict, button in self.verdicts.items():
            on(button.click, partial(self._judge, verdict), judge, inputs=here)
        on(self.undo.click, self._undo, judge, inputs=here)
        for button, by in ((self.previous, -1), (self.next, 1)):
            on(button.click, partial(self._step, by), judge)
        on(self.onward.click, self._onward, [self.tabs])
        self.place.change(None, js=_TO_TOP, api_visibility="private")
        on(self.repair_tab.select, self._repairs, repair)
        on(self.repair.click, self._repair, [*repair, *work])
        on(self.runs.input, self._open, everything, inputs=[self.runs])
        on(
            self.audit.click,
            self._audit,
            [self.archive, self.model, self.outcome, *work],
            inputs=[self.place, self.archive, self.folder, self.model, self.student],
        )
        on(self.clock.tick, self._poll, everything, inputs=[self.place, self.shown])

    def _on(
        self,
        event: Callable[..., Any],
        method: Callable[..., _Updates],
        outputs: list[Any],
        *,
        inputs: list[Any] | None = None,
        js: str | None = None,
    ) -> None:
        """Connect an event with a method, which gets the place if nothing else; show its errors."""

        def handle(*values: Any) -> _Updates:
            try:
                return method(*values)
            except DidaeError as error:
                raise gr.Error(escape(str(error)), print_exception=False) from error
            # A request that no click of this page sends; whoever looks must learn of a true fault.
            except Exception as error:
                _logger.exception("the page failed")
                words = f"This did not work ({type(error).__name__}): reload the page."
                raise gr.Error(words, print_exception=False) from error

        event(
            handle,
            [self.place] if inputs is None else inputs,
            outputs,
            js=js,
            show_progress="hidden",
            api_visibility="private",
        )

    def _load(self, window: str) -> _Updates:
        return self._open(self.desk.opened) | {self.window: window}

    def _open(self, name: str) -> _Updates:
        return self._everything(self.desk.first(name))

    def _step(self, by: int, place: str) -> _Updates:
        return self._judging(self.desk.step(place, by))

    def _onward(self, place: str) -> _Updates:
        del place
        return {self.tabs: gr.Tabs(selected=_REPAIR)}

    def _judge(self, verdict: Verdict, place: str, window: str) -> _Updates:
        return self._judging(self.desk.judge(place, verdict, window))

    def _undo(self, place: str, window: str) -> _Updates:
        earlier = self.desk.undo(place, window)
        if earlier is None:
            gr.Info("There is nothing to undo: no verdict of this window stands.", duration=3)
        return self._judging(earlier or place)

    def _repair(self, place: str) -> _Updates:
        self.desk.start_repair(place)
        return self._repairs(place) | self._working(place, look_again=True)

    def _audit(
        self, place: str, archive: str | None, folder: str, model: str | None, student: str
    ) -> _Updates:
        files = [Path(name) if name else None for name in (archive, model)]
        ignored = self.desk.start_audit(files[0], folder.strip(), files[1], student.strip())
        for file in filter(None, files):
            file.unlink(missing_ok=True)
        if ignored:
            gr.Info(escape(f"{len(ignored)} files are no images: {', '.join(ignored[:3])} …"))
        return self._working(place, look_again=True) | {
            self.archive: None,
            self.model: None,
            self.audit: gr.Button(interactive=False),
        }

    def _poll(self, place: str, shown: str) -> _Updates:
        status = self.desk.jobs.status
        if status is None or status.running:
            working = self._working(place, look_again=status is not None)
            return working if self._audited() == shown else working | self._first_look()
        done = self._working(place, look_again=False) | self._first_look()
        done |= {self.audit: gr.Button(interactive=True)}
        if status.kind == "audit" and not status.error:
            return done | self._open(status.run)
        return done | self._repairs(place)

    def _first_look(self) -> _Updates:
        """Show the real pairs of an audit that goes on; nothing where none does."""
        return {
            self.photographs: views.photographs_view(self.desk),
            self.shown: self._audited(),
        }

    def _audited(self) -> str:
        folder = self.desk.auditing()
        return "" if folder is None else folder.parent.name

    def _working(self, place: str, look_again: bool) -> _Updates:
        """Show what long work is doing; its end is seen by looking again."""
        run, _ = self.desk.locate(place)
        return {
            self.clock: gr.Timer(active=look_again),
            self.outcome: views.repair_view(self.desk, run),
            self.auditing: views.job_view(self.desk.jobs.status, "audit"),
        }

    def _everything(self, place: str) -> _Updates:
        # Asked first: work that ends while this is drawn is seen by looking again.
        running = self.desk.jobs.running
        run, _ = self.desk.locate(place)
        finished = run.next_open() is None and bool(run.order)
        names = self.desk.names()
        choices = [(self.desk.title(name), name) for name in names]
        return (
            self._judging(place)
            | self._repairs(place)
            | self._working(place, look_again=running)
            | self._first_look()
            | {
                self.audit: gr.Button(interactive=not running),
                self.runs: gr.Dropdown(choices, value=run.name, visible=len(names) > 1),
                self.tabs: gr.Tabs(selected=_REPAIR if finished else _JUDGE),
            }
        )

    def _judging(self, place: str) -> _Updates:
        run, direction = self.desk.locate(place)
        verdicts = run.verdicts()
        chosen = verdicts[direction] if direction >= 0 else None
        buttons = {
            button: gr.Button(
                elem_classes=["chosen"] if verdict == chosen else [], interactive=direction >= 0
            )
            for verdict, button in self.verdicts.items()
        }
        done = direction >= 0 and run.next_open() is None
        return {
            self.place: place,
            self.screen: views.judge_view(run, direction),
            **buttons,
            self.onward: gr.Button(visible=done),
        }

    def _repairs(self, place: str) -> _Updates:
        run, _ = self.desk.locate(place)
        possible = not self.desk.obstacle(run) and not self.desk.jobs.running
        return {
            self.judged: views.verdicts_view(run),
            self.outcome: views.repair_view(self.desk, run),
            self.repair: gr.Button(interactive=possible),
            self.downloads: views.downloads_view(self.desk, run),
        }
