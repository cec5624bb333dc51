"""A person at the terminal, who looks at contact sheets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from didae.data.images import write_png
from didae.teachers.base import Pairs
from didae.teachers.verdicts import VERDICTS, Verdict

KEYS: dict[str, Verdict] = {verdict[0]: verdict for verdict in VERDICTS}


class Stop(Exception):  # noqa: N818 - no error: the person goes away and comes back
    """The person wants to go on later."""


class Undo(Exception):  # noqa: N818
    """The person wants the last verdict back."""


class Terminal:
    """Writes a contact sheet per direction and asks for one key."""

    def __init__(
        self, folder: Path, name: str = "terminal", ask: Callable[[str], str] = input
    ) -> None:
        self.folder, self.name, self.ask = folder, name, ask

    def judge(self, pairs: Pairs) -> Verdict:
        """Ask until there is a verdict."""
        if len(pairs.factuals):
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"{pairs.direction:04d}.png"
            write_png(contact_sheet(pairs), path)
            seen = f"{len(pairs.factuals)} flips, {path}"
        else:
            seen = "no image flips the student"
        question = (
            f"{pairs.direction}. {pairs.name} ({seen})\n"
            "  [c]ausal  [s]purious  [u]nclear  [b]roken  [z] undo  [q]uit: "
        )
        while True:
            answer = self._answer(question)
            if answer[:1] in KEYS and KEYS[answer[0]].startswith(answer):
                return KEYS[answer[0]]

    def confirm(self) -> None:
        """Ask whether all verdicts shall stand."""
        self._answer("every direction is judged\n  [z] undo the last verdict  [Enter] done: ")

    def _answer(self, question: str) -> str:
        try:
            answer = self.ask(question).strip().lower()
        except EOFError:
            raise Stop from None
        if answer == "q":
            raise Stop
        if answer == "z":
            raise Undo
        return answer


def contact_sheet(pairs: Pairs, gap: int = 4) -> Tensor:
    """Lay factual images above their counterfactuals."""
    n, channels, height, width = pairs.factuals.shape
    sheet = torch.full((channels, 2 * height + gap, n * (width + gap) - gap), 255).to(torch.uint8)
    for number, images in enumerate(zip(pairs.factuals, pairs.counterfactuals, strict=True)):
        left = number * (width + gap)
        for row, image in enumerate(images):
            top = row * (height + gap)
            sheet[:, top : top + height, left : left + width] = image
    return sheet
