"""What didae gives for fixed inputs; `python tests/golden/outputs.py` freezes it anew.

Only public names and the command line are used, so that the code behind them may change shape.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

import didae

FROZEN = Path(__file__).parent / "frozen"
RUN = FROZEN / "run"
RUNS = {
    "default": {"count": 40},
    "heun": {"count": 12, "sampler": {"method": "heun", "steps": 5}},
}


def arithmetic() -> str:
    """Hash what the arithmetic here gives: last bits differ from processor to processor."""
    generator = torch.Generator().manual_seed(0)
    x, w = (
        torch.randn(4, 8, 16, 16, generator=generator),
        torch.randn(8, 8, 3, 3, generator=generator),
    )
    parts = [
        torch.conv2d(x, w),
        x.flatten(1) @ x.flatten(1).T,
        x.exp(),
        torch.linalg.svd(x[0, 0])[0],
    ]
    return hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest()


def explained(folder: Path, count: int = 40, **settings: object) -> pa.Table:
    """Explain images of Square, from both classes, and give the table."""
    square = didae.Square(16_000)
    config = didae.ExplainConfig(**settings)
    summary = didae.explain(
        square, square.splits["test"][:count], didae.load_components(), config, folder
    )
    didae.write_report(folder, summary)
    parts = sorted((folder / "table").glob("part-*.parquet"))
    return pa.concat_tables([pq.read_table(part) for part in parts])


def embeddings() -> tuple[np.ndarray, np.ndarray]:
    """Mix four uneven factors into 12 dimensions, with noise."""
    random = np.random.default_rng(3)
    factors = random.uniform(size=(400, 4)) * [1, 2, 3, 4]
    z = factors @ random.normal(size=(4, 12)) + 0.1 * random.normal(size=(400, 12))
    return z, (factors - factors.mean(0)) / factors.std(0)


def atoms() -> dict[str, np.ndarray]:
    """Fit each linear dictionary: atoms and codes of the first images."""
    z, factors = embeddings()
    names = ("a", "b", "c", "d")
    fitted = {
        "procrustes": didae.Procrustes().fit(z, factors, names),
        "svd": didae.SVD(4).fit(z),
        "ica": didae.ICA(4).fit(z),
    }
    few = torch.from_numpy(z[:5])
    return {
        f"{kind} {part}": value.double().numpy()
        for kind, dictionary in fitted.items()
        for part, value in (("atoms", dictionary.atoms), ("codes", dictionary.encode(few)))
    }


def repaired() -> tuple[dict[str, np.ndarray], dict[str, object]]:
    """Refit a head that looks at the background; give the head and what the gate says."""
    square, components = didae.Square(4000), didae.load_components()
    labels, background = torch.from_numpy(square.labels), torch.from_numpy(square.classes)[:, 1]
    agree = np.flatnonzero((labels == background).numpy())
    rest = np.flatnonzero((labels != background).numpy())
    rows = np.concatenate([agree[:196], rest[:4]]), np.concatenate([agree[196:588], rest[4:12]])
    train, held_out = (
        didae.Labelled(square.images(row), labels[row], background[row]) for row in rows
    )
    with torch.inference_mode():
        z = components.encoder(train.images / 255).double()
    extended = torch.cat([z, torch.ones(len(z), 1, dtype=torch.double)], 1)
    solved = torch.linalg.solve(
        extended.T @ extended + torch.eye(extended.shape[1], dtype=torch.double),
        extended.T @ (2 * train.labels.double() - 1),
    )
    weight, bias = torch.stack([-solved[:-1], solved[:-1]]), torch.stack([-solved[-1], solved[-1]])
    biased = didae.LinearHead(components.encoder, weight.float().clone(), bias.float().clone())
    done = didae.repair_student(
        dataclasses.replace(components, student=biased),
        train,
        held_out,
        (1,),
        didae.RepairConfig(copies=1),
    )
    head = {
        name: part.detach().double().numpy()
        for name, part in done.student.named_parameters()
        if "encoder" not in name
    }
    return head, dataclasses.asdict(done.decision)


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002
        self.hidden += tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in ("style", "script")

    def handle_data(self, data: str) -> None:
        if not self.hidden and data.strip():
            self.words.append(" ".join(data.split()))


def words(html: str) -> list[str]:
    """Give what a reader of a page sees, piece by piece."""
    parser = _Text()
    parser.feed(html)
    return parser.words


def figures(folder: Path) -> set[str]:
    """Give the figures that a reader of a run's report sees, without those of speed."""
    page = (folder / "report.html").read_text(encoding="utf-8").replace(str(folder), "")
    pieces = words(page)
    slow = {place + 1 for place, piece in enumerate(pieces) if "per second" in piece}
    text = " ".join(piece for place, piece in enumerate(pieces) if place not in slow)
    return set(re.findall(r"\d[\d,]*\.?\d*(?: ?%)?", text))


COMMANDS = (
    "demo", "audit", "data square", "train encoder", "train decoder", "train student", "fit",
    "explain", "label", "app", "repair", "evaluate", "report",
)  # fmt: skip


def flags(command: str) -> set[str]:
    """Give the flags of a command with their defaults, as its help shows them."""
    from didae.cli import main

    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main([*command.split(), "--help-all"])
    text = re.sub(
        r"\s+", " ", re.sub(r"[│╭╮╰╯─]", " ", re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()))
    )
    found: set[str] = set()
    for piece in re.split(r"(?=(?<![\w-])--[a-z])", text):
        flag = re.match(r"--[a-z][a-z0-9.-]*", piece)
        default = re.search(r"\(default: (.*?) ?\)", piece)
        if flag:
            found.add(f"{flag[0]} {re.sub(' ', '', default[1]) if default else ''}".strip())
    return found


def assets() -> dict[str, str]:
    """Hash what is shipped."""
    home = Path(didae.__file__).parent / "assets" / "square"
    files = sorted(path for path in home.rglob("*") if path.is_file())
    return {
        path.relative_to(home).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def freeze() -> None:
    """Write everything that the tests compare with."""
    import json
    import shutil
    import tempfile

    def write(name: str, value: object) -> None:
        text = json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True)
        (FROZEN / name).write_text(text + "\n", encoding="utf-8")

    shutil.rmtree(FROZEN, ignore_errors=True)
    FROZEN.mkdir()
    write("arithmetic.json", arithmetic())
    with tempfile.TemporaryDirectory() as place:
        for name, settings in RUNS.items():
            folder = Path(place) / name
            pq.write_table(explained(folder, **settings), FROZEN / f"{name}.parquet")
            shutil.copy(folder / "summary.json", FROZEN / f"{name}.json")
            write(f"{name}_figures.json", sorted(figures(folder)))
    explained(RUN, 4)
    (RUN / "report.html").unlink()
    np.savez_compressed(FROZEN / "atoms.npz", **atoms())
    head, decision = repaired()
    np.savez_compressed(FROZEN / "head.npz", **head)
    write("decision.json", decision)
    write("flags.json", {command: sorted(flags(command)) for command in COMMANDS})
    write("assets.json", assets())


if __name__ == "__main__":
    os.environ["COLUMNS"] = "100"
    sys.exit(freeze())
