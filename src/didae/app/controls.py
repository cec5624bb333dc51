"""The controls of the page and where they stand; what they do is in `page`."""

from __future__ import annotations

from didae.app import views
from didae.app.limits import UploadLimits
from didae.app.toolkit import gr
from didae.teachers import VERDICTS, Verdict

POLL_SECONDS = 0.5

JUDGE, REPAIR, OWN = "judge", "repair", "own"


class Controls:
    """The controls, laid out when this is made inside `gr.Blocks`."""

    def __init__(self, limits: UploadLimits) -> None:
        with gr.Row(elem_id="top"):
            gr.HTML("<h1>didae</h1>", elem_id="brand")
            self.runs = gr.Dropdown(
                label="Run", show_label=False, container=False, elem_id="runs", filterable=False
            )
        # What is on this screen: sent along with every click.
        self.place = gr.Textbox(visible="hidden", elem_id="place")
        self.window = gr.Textbox(visible="hidden", elem_id="window")
        self.clock = gr.Timer(POLL_SECONDS, active=False)
        with gr.Tabs(elem_id="tabs") as self.tabs:
            with gr.Tab("Judge", id=JUDGE, elem_id="tab-judge") as self.judge_tab:
                self._lay_out_judge()
            with gr.Tab("Repair", id=REPAIR, elem_id="tab-repair") as self.repair_tab:
                self._lay_out_repair()
            with gr.Tab("Own images", id=OWN):
                self._lay_out_own(limits)

    def _lay_out_judge(self) -> None:
        self.screen = gr.HTML(elem_id="screen")
        with gr.Column(elem_id="controls"):
            with gr.Row(elem_id="verdicts"):
                self.verdicts: dict[Verdict, gr.Button] = {
                    verdict: gr.Button(_words(verdict), elem_id=f"verdict-{verdict}")
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

    def _lay_out_own(self, limits: UploadLimits) -> None:
        with gr.Column(elem_id="own"):
            gr.HTML(views.own_intro(limits))
            self.archive = _file("Images: a zip file", ".zip", "archive")
            self.folder = gr.Textbox(
                label="… or a folder on this computer",
                placeholder="/home/me/photos",
                elem_id="path",
            )
            self.model = _file("Classifier: an ONNX file", ".onnx", "model")
            self.student = gr.Textbox(
                label="… or where it is on this computer",
                placeholder="/home/me/classifier.onnx, timm:NAME, or a folder that didae wrote",
                elem_id="student",
            )
            self.audit = gr.Button("Start the audit", elem_id="audit", variant="primary")
            self.auditing = gr.HTML(elem_id="auditing")


def _file(label: str, suffix: str, name: str) -> gr.File:
    return gr.File(label=label, file_types=[suffix], elem_id=name, height=140)


def _words(verdict: Verdict) -> str:
    return f"{verdict.capitalize()}\n{views.MEANINGS[verdict]}"
