"""The names of students: every form opens what it says, and nothing in a file is executed."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from didae.cli import main
from didae.encoders.base import ENCODERS
from didae.encoders.pretrained import LiteEncoder
from didae.errors import DidaeError
from didae.students import LinearHead, StudentConfig, build_student, check_student
from didae.students.names import list_students, open_student
from didae.students.onnx import OnnxStudent
from failures import one_line
from onnx_files import CLASSES, Classifier

IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Touch:
    """A pickle that creates a file when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_onnx_files(tmp_path: Path):
    path = Classifier(more_outputs=("again",)).save(tmp_path / "net.onnx")
    other = Classifier().save(tmp_path / "weights_of_mine")
    expected = OnnxStudent(str(path))(IMAGES)
    for name in (f"onnx:{path}", str(path), f"{path}#logits", f"onnx:{other}#logits"):
        student = open_student(name)
        assert torch.equal(student(IMAGES), expected), name
        assert check_student(student, IMAGES) == CLASSES
    assert open_student(f"{path}#again")(IMAGES).shape != expected.shape
    odd = Classifier().save(tmp_path / "a#b.onnx")
    assert torch.equal(open_student(str(odd))(IMAGES), expected)
    for name in (f"onnx:{tmp_path}/none", f"{tmp_path}/none.onnx"):
        assert "cannot read" in one_line(lambda name=name: open_student(name))


def test_folders(tmp_path: Path):
    student = build_student(StudentConfig(image_size=16, width=2))
    for folder in ("student", "student.onnx", "timm:resnet18"):
        student.save(tmp_path / folder)
        assert torch.equal(open_student(str(tmp_path / folder))(IMAGES), student.eval()(IMAGES))
    (tmp_path / "empty").mkdir()
    assert "config.json" in one_line(lambda: open_student(str(tmp_path / "empty")))


@pytest.mark.parametrize("suffix", ["pt", "pth", "pkl", "bin", "ckpt", "PT"])
def test_programs_are_never_opened(suffix: str, tmp_path: Path):
    trap, path = tmp_path / "trap", tmp_path / f"net.{suffix}"
    path.write_bytes(pickle.dumps(Touch(trap)))
    message = one_line(lambda: open_student(str(path)))
    assert "was not opened" in message
    assert "ONNX" in message
    assert not trap.exists()
    # The same file under another ending is no ONNX file, and is not executed either.
    renamed = path.rename(tmp_path / "net.onnx")
    assert "is not an ONNX file" in one_line(lambda: open_student(str(renamed)))
    assert not trap.exists()
    # Negative control: the trap works.
    pickle.loads(renamed.read_bytes())
    assert trap.exists()


def test_torchscript_is_refused_by_its_name():
    assert "was not opened" in one_line(lambda: open_student("torchscript:net"))


@pytest.mark.parametrize("name", ["nothing", "", "onnx:", "timm:", "onxn:net", "nothing.tar"])
def test_unknown_names_list_the_known_forms(name: str):
    message = one_line(lambda: open_student(name))
    assert all(form in message for form in list_students())


def test_timm_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    assert "pip install 'didae[" in one_line(lambda: open_student("timm:resnet18"))


class TestTimm:
    @pytest.fixture
    def timm(self):
        return pytest.importorskip("timm")

    def test_a_classifier_of_a_file(self, timm, tmp_path: Path):
        torch.manual_seed(0)
        network = timm.create_model("resnet10t", pretrained=False, num_classes=3).eval()
        path = tmp_path / "net.pth"
        torch.save(network.state_dict(), path)
        student = open_student(f"timm:resnet10t@{path}")
        assert not student.training
        side = network.pretrained_cfg["input_size"][1]
        images = torch.rand(2, 3, side, side)
        mean, std = (
            torch.tensor(network.pretrained_cfg[key])[:, None, None] for key in ("mean", "std")
        )
        # By its own preprocessing images are first resized to more, and the border is cut off.
        small = student.preprocessing.model_copy(update={"resize": side})
        expected = network((images - mean) / std)
        torch.testing.assert_close(student.network(small.apply(images)), expected)
        prepared = student.preprocessing.apply(images)
        torch.testing.assert_close(student(images), network(prepared))
        assert check_student(student, images) == 3
        assert all(value.requires_grad for value in student.parameters())
        assert [type(item) for item in student.modules() if type(item) is nn.Linear]

    def test_what_is_wrong_is_one_line(self, timm, tmp_path: Path):
        path, trap = tmp_path / "net.pth", tmp_path / "trap"
        assert "did you mean" in one_line(lambda: open_student("timm:resnet10tt"))
        assert "there is no file" in one_line(lambda: open_student(f"timm:resnet10t@{path}"))
        path.write_bytes(pickle.dumps(Touch(trap)))
        message = one_line(lambda: open_student(f"timm:resnet10t@{path}"))
        assert "does not give its weights" in message
        assert not trap.exists()
        assert "could not be loaded" in one_line(lambda: open_student("timm:resnet10t"))
        network = timm.create_model("resnet10t", pretrained=False, num_classes=0)
        torch.save(network.state_dict(), path)
        assert "does not give" in one_line(lambda: open_student(f"timm:resnet10t@{path}"))
        network = timm.create_model("resnet10t", pretrained=False, num_classes=1)
        torch.save(network.state_dict(), path)
        assert "no classifier" in one_line(lambda: open_student(f"timm:resnet10t@{path}"))


def test_a_saved_head_is_opened_with_its_encoder(tmp_path, monkeypatch):
    encoder, other = LiteEncoder(32, "lite0@32"), LiteEncoder(32, "lite0@32")
    head = LinearHead(encoder, torch.randn(2, 1280), torch.randn(2))
    head.save(tmp_path / "head")
    known = {"lite0@32": encoder}
    monkeypatch.setitem(ENCODERS, "lite0[@SIDE]", lambda side: known[f"lite0@{side}"])
    images = torch.rand(2, 3, 32, 32)
    found = open_student(str(tmp_path / "head"))
    with torch.no_grad():
        assert torch.equal(found(images), head(images))
    known["lite0@32"] = other
    with pytest.raises(DidaeError, match="another encoder"):
        open_student(str(tmp_path / "head"))


@pytest.mark.parametrize("command", ["audit", "explain", "evaluate"])
def test_the_help_of_commands_has_every_form(command: str, capsys: pytest.CaptureFixture[str]):
    assert main([command, "--help"]) == 0
    shown = "".join(letter for letter in capsys.readouterr().out if letter not in "│| \n")
    assert all(form.replace(" ", "").replace("|", "") in shown for form in list_students())


def test_the_shipped_student_has_a_name_that_no_folder_takes(tmp_path: Path, monkeypatch):
    shipped = open_student("square")
    (tmp_path / "square").mkdir()
    monkeypatch.chdir(tmp_path)
    assert str(open_student("square")) == str(shipped)
    assert "square@64" in one_line(lambda: open_student("square@64"))
