from __future__ import annotations

import os

from didae.data.folder import _identifier, _left_out, _walk
from didae.data.images import write_png
from didae.data.square import Square
from didae.data.table import ImageTable


def write(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in _walk(folder))


def test_links_are_followed_and_loops_end(tmp_path):
    write(tmp_path, "disk/a.png", "disk/deep/b.png", "disk/other/c.png", "data/dog/d.png")
    cat = tmp_path / "data/cat"
    cat.mkdir()
    (cat / "more").symlink_to(tmp_path / "disk/deep")
    (tmp_path / "disk/deep/up").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/deep/self").symlink_to(tmp_path / "disk/deep")
    (tmp_path / "disk/deep/data").symlink_to(tmp_path / "data")
    (cat / "here").symlink_to(cat)
    (cat / "single.png").symlink_to(tmp_path / "disk/a.png")
    assert names(cat) == ["more/b.png", "single.png"]


def test_a_folder_linked_twice_is_gone_through_once(tmp_path):
    write(tmp_path, "disk/a.png", "cat/b.png", "dog/c.png")
    for link in ("cat/one", "cat/two", "dog/one"):
        (tmp_path / link).symlink_to(tmp_path / "disk")
    assert names(tmp_path / "cat") == ["b.png", "one/a.png"]
    assert names(tmp_path / "dog") == ["c.png", "one/a.png"]


def test_folders_that_link_to_each_other_end(tmp_path):
    for number in range(12):
        write(tmp_path, f"{number}/x.png")
        for other in range(12):
            (tmp_path / f"{number}/to{other}").symlink_to(tmp_path / str(other))
    assert len(names(tmp_path)) == 12
    assert len(names(tmp_path / "3")) == 12


def test_what_no_user_sees_is_passed_over(tmp_path):
    write(tmp_path, ".git/a.png", "__MACOSX/b.png", "Thumbs.db", "@eaDir/c.jpg", "d.PNG")
    assert names(tmp_path) == ["d.PNG"]
    assert _left_out(tmp_path) == ""


def test_files_left_out_are_counted_by_ending_with_advice(tmp_path):
    write(
        tmp_path, "a.png", "b.JFIF", "x/1.heic", "x/2.HEIC", "x/n.txt", "y/m.txt", "o.txt", "LIST"
    )
    assert _left_out(tmp_path) == (
        "3 .txt, 2 .heic (HEIC; convert it to JPEG or PNG), 1 without ending"
    )


def test_other_files_are_counted_in_the_class_they_lie_in(tmp_path):
    for split in ("train", "test"):
        for label, ending in (("cat", "txt"), ("dog", "heic")):
            write(tmp_path, *(f"{split}/{label}/{number}.{ending}" for number in range(5)))
            for number in range(3):
                write_png(
                    Square(3).images([number])[0], tmp_path / f"{split}/{label}/x/{number}.png"
                )
    write(tmp_path, "train/n.heic", "o.avif")
    other = ImageTable.from_folder(tmp_path).other
    assert other is not None
    assert (other.failed, other.wanted, other.kind) == (22, 34, "other files")
    # A folder of several classes says nothing of a file's own, nor does a text say it is an image.
    assert other.classes == {"cat": (0, 6), "dog": (10, 16)}
    assert str(other).startswith("22 of 34 files are left out, by ending: 11 .heic (HEIC; ")
    assert other.uneven == ["dog"]
    assert ImageTable.from_folder(tmp_path / "train/cat/x").other is None


def test_identifiers_are_unique_printable_and_mostly_the_name():
    latin = os.fsdecode(b"caf\xe9.png")
    given = [
        "café/1 写真.png",
        latin,
        r"caf\udce9.png",
        "a\nb",
        r"a\nb",
        "a\x1b[31m",
        "\u202egnp.a",
    ]
    made = [_identifier(name) for name in given]
    assert made[0] == given[0]
    assert len({*made}) == len(given)
    assert all(name.isprintable() and name.encode() for name in made)
