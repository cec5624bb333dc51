"""Every limit of an upload, just kept and just broken; what is refused leaves nothing behind."""

from __future__ import annotations

import io
import os
import stat
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from didae.app.uploads import UploadLimits, unpack
from didae.data.table import ImageTable
from didae.errors import DidaeError

LIMITS = UploadLimits()


def png(width: int = 8, height: int = 8, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def special(name: str, kind: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.create_system = 3
    entry.external_attr = (kind | 0o777) << 16
    return entry


def pack(path: Path, files: dict[str | zipfile.ZipInfo, bytes], method: int = 8) -> Path:
    archive = zipfile.ZipFile(path, "w", method)
    with archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def refused(tmp_path: Path, archive: Path, limits: UploadLimits = LIMITS) -> str:
    """Unpack what must be refused, make sure that nothing is left, and give the message."""
    before = set(tmp_path.rglob("*"))
    with pytest.raises(DidaeError) as caught:
        unpack(archive, tmp_path / "goal", limits)
    assert set(tmp_path.rglob("*")) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def unpacked(tmp_path: Path, archive: Path, limits: UploadLimits) -> int:
    """Count the images that come out."""
    unpack(archive, tmp_path / "goal", limits)
    return len(list((tmp_path / "goal").rglob("*.png")))


def test_images_in_class_folders_come_out_as_they_went_in(tmp_path) -> None:
    files = {f"{kind}/{i}.png": png(seed=i) for i in range(3) for kind in ("a", "b")}
    extra = {"a/": b"", "metadata.txt": b"hello", "__MACOSX/a/._0.png": b"x", ".DS_Store": b"x"}
    archive = pack(tmp_path / "x.zip", files | extra)
    assert unpack(archive, tmp_path / "goal", LIMITS) == ("metadata.txt",)
    found = {
        path.relative_to(tmp_path / "goal").as_posix(): path.read_bytes()
        for path in (tmp_path / "goal").rglob("*")
        if path.is_file()
    }
    assert found == files
    assert ImageTable.from_folder(tmp_path / "goal").label_names == ("a", "b")


def test_a_table_of_metadata_comes_along(tmp_path) -> None:
    files = {"1.png": png(), "metadata.csv": b"file_name,label\n1.png,cat\n", "a/metadata.csv": b""}
    assert unpack(pack(tmp_path / "x.zip", files), tmp_path / "goal", LIMITS) == ()
    assert ImageTable.from_folder(tmp_path / "goal").label_names == ("cat",)


@pytest.mark.parametrize(
    "name",
    [
        "../1.png",
        "a/../../1.png",
        "a/../1.png",
        "/1.png",
        "//1.png",
        "a//1.png",
        "./1.png",
        "..\\1.png",
        "a\\1.png",
        "C:1.png",
        "C:/1.png",
        "a\n.png",
        "a\x1b[31m.png",
        "a\x00.png",
        "x" * 300 + ".png",
        "/".join("a" * 40) + "/1.png",
        "..",
        "../",
    ],
)
def test_a_path_that_is_not_plain_is_refused(tmp_path, name: str) -> None:
    entry = zipfile.ZipInfo("x" * len(name))
    entry.filename = name  # the constructor would tidy it up
    archive = pack(tmp_path / "x.zip", {"ok.png": png(), entry: png()})
    assert "not a plain path" in refused(tmp_path, archive)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_links_and_special_files_are_refused(tmp_path, kind: int) -> None:
    archive = pack(tmp_path / "x.zip", {"ok.png": png(), special("1.png", kind): b"/etc/passwd"})
    assert "a link or a special file" in refused(tmp_path, archive)


def test_a_link_is_refused_whatever_its_ending(tmp_path) -> None:
    archive = pack(tmp_path / "x.zip", {"ok.png": png(), special("folder", stat.S_IFLNK): b"/"})
    assert "a link or a special file" in refused(tmp_path, archive)


def test_a_file_that_is_there_twice_is_refused(tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("1.png", png())
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("1.png", png())
    assert "there twice" in refused(tmp_path, tmp_path / "x.zip")
    archive = pack(tmp_path / "y.zip", {"a/1.png": png(), "A/1.PNG": png()})
    assert "there twice" in refused(tmp_path, archive)


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path) -> None:
    archive = pack(tmp_path / "x.zip", {"a.png": png(), "a.png/1.png": png()})
    assert "cannot be unpacked" in refused(tmp_path, archive)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_only_deflate_is_read(tmp_path, method: int) -> None:
    archive = pack(tmp_path / "x.zip", {"1.png": png()}, method)
    assert "not deflate" in refused(tmp_path, archive)


def test_an_encrypted_file_is_refused(tmp_path) -> None:
    archive = pack(tmp_path / "x.zip", {"1.png": png()})
    data = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    archive.write_bytes(data)
    assert "encrypted" in refused(tmp_path, archive)


def test_the_size_of_the_archive(tmp_path) -> None:
    archive = pack(tmp_path / "x.zip", {"1.png": png()})
    size = archive.stat().st_size
    assert "more than" in refused(tmp_path, archive, UploadLimits(archive_bytes=size - 1))
    assert unpacked(tmp_path, archive, UploadLimits(archive_bytes=size)) == 1


def test_the_number_of_images(tmp_path) -> None:
    archive = pack(tmp_path / "x.zip", {f"{i}.png": png() for i in range(4)})
    assert "too many images: 4" in refused(tmp_path, archive, UploadLimits(files=3))
    assert unpacked(tmp_path, archive, UploadLimits(files=4)) == 4


def test_the_number_of_entries_counts_what_is_ignored(tmp_path) -> None:
    files = {"1.png": png(), **{f"{i}.txt": b"" for i in range(9)}}
    archive = pack(tmp_path / "x.zip", files)
    assert "too many entries: 10" in refused(tmp_path, archive, UploadLimits(entries=9))
    assert unpacked(tmp_path, archive, UploadLimits(entries=10)) == 1


def test_a_hundred_thousand_entries_are_not_even_listed(tmp_path) -> None:
    # The count is a lie: by the directory's size there are far more.
    archive = pack(tmp_path / "x.zip", {f"{i:0200d}.png": b"" for i in range(30_000)}, 0)
    data = bytearray(archive.read_bytes())
    struct.pack_into("<HH", data, len(data) - 14, 1, 1)
    archive.write_bytes(data)
    del data
    tracemalloc.start()
    assert "bytes of directory" in refused(tmp_path, archive)
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


def test_a_directory_with_more_entries_than_it_says_is_refused(tmp_path) -> None:
    archive = pack(tmp_path / "x.zip", {f"{i}.png": png() for i in range(9)})
    data = bytearray(archive.read_bytes())
    struct.pack_into("<HH", data, len(data) - 14, 1, 1)
    archive.write_bytes(data)
    assert "too many entries: 9" in refused(tmp_path, archive, UploadLimits(entries=8))


def test_zip64_is_refused(tmp_path) -> None:
    archive = pack(tmp_path / "x.zip", {"1.png": png()})
    data = archive.read_bytes()
    locator = b"PK\x06\x07" + struct.pack("<LQL", 0, len(data), 1)
    archive.write_bytes(data[:-22] + locator + data[-22:])
    assert "ZIP64" in refused(tmp_path, archive)


def test_the_size_of_one_file(tmp_path) -> None:
    data = png(32, 32)
    archive = pack(tmp_path / "x.zip", {"1.png": data})
    assert "more than" in refused(tmp_path, archive, UploadLimits(file_bytes=len(data) - 1))
    assert unpacked(tmp_path, archive, UploadLimits(file_bytes=len(data))) == 1


def test_the_size_of_all_files(tmp_path) -> None:
    files = {f"{i}.png": png(32, 32, i) for i in range(3)}
    total = sum(len(data) for data in files.values())
    archive = pack(tmp_path / "x.zip", files)
    message = refused(tmp_path, archive, UploadLimits(total_bytes=total - 1))
    # By what the archive declares, before the first byte is written.
    assert f"too many bytes: {total:,}" in message
    assert unpacked(tmp_path, archive, UploadLimits(total_bytes=total)) == 3


def test_a_bomb_is_refused_before_anything_is_written(tmp_path) -> None:
    archive = pack(tmp_path / "x.zip", {"1.png": bytes(LIMITS.file_bytes + 1)})
    assert archive.stat().st_size < 50_000
    assert "more than" in refused(tmp_path, archive)


@pytest.mark.parametrize("declared", [10, 1 << 20])
def test_a_bomb_that_lies_about_its_size_is_not_unpacked(tmp_path, declared: int) -> None:
    archive = pack(tmp_path / "x.zip", {"1.png": bytes(30 << 20)})
    data = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<L", data, data.index(signature) + offset, declared)
    archive.write_bytes(data)
    tracemalloc.start()
    assert "damaged" in refused(tmp_path, archive)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_bytes_are_counted_while_they_are_written(tmp_path, monkeypatch) -> None:
    # Were zipfile to hand out more than the archive declares, the counters would still stop it.
    class Endless:
        def __init__(self, *_: object) -> None: ...
        def __enter__(self) -> Endless:
            return self

        def __exit__(self, *_: object) -> None: ...
        def read(self, size: int) -> bytes:
            return bytes(size)

    archive = pack(tmp_path / "x.zip", {"1.png": png()})
    monkeypatch.setattr(zipfile.ZipFile, "open", Endless)
    assert "it has more than" in refused(tmp_path, archive, UploadLimits(file_bytes=3 << 20))
    limits = UploadLimits(total_bytes=3 << 20)
    assert "unpack to more than" in refused(tmp_path, archive, limits)


def test_the_pixels_of_an_image_are_judged_by_its_header(tmp_path) -> None:
    archive = pack(tmp_path / "x.zip", {"1.png": png(20, 10)})
    assert "20 x 10 pixels" in refused(tmp_path, archive, UploadLimits(pixels=199))
    assert unpacked(tmp_path, archive, UploadLimits(pixels=200)) == 1
    # A header that promises 60 000 x 60 000 pixels, and nothing behind it.
    bomb = bytearray(png())
    struct.pack_into(">LL", bomb, 16, 60_000, 60_000)
    struct.pack_into(">L", bomb, 29, __import__("zlib").crc32(bomb[12:29]))
    archive = pack(tmp_path / "y.zip", {"1.png": bytes(bomb)})
    with pytest.raises(DidaeError, match=r"pixels|decompression bomb"):
        unpack(archive, tmp_path / "other", LIMITS)


@pytest.mark.parametrize(
    "data", [b"", b"<html>", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\x89PNG\r\n\x1a\n", b"\x80\x04K\x01."]
)
def test_what_is_no_image_but_says_so_is_refused(tmp_path, data: bytes) -> None:
    archive = pack(tmp_path / "x.zip", {"ok.png": png(), "sub/1.png": data})
    assert "'sub/1.png' is refused" in refused(tmp_path, archive)


@pytest.mark.parametrize("name", ["1.txt", "1.exe", "1.svg", "1.png.html", "1.pt", "png", ".1.png"])
def test_other_types_are_never_written(tmp_path, name: str) -> None:
    archive = pack(tmp_path / "x.zip", {"ok.png": png(), name: png()})
    unpack(archive, tmp_path / "goal", LIMITS)
    assert os.listdir(tmp_path / "goal") == ["ok.png"]
    assert "no image" in refused(tmp_path, pack(tmp_path / "y.zip", {name: png()}))


@pytest.mark.parametrize("data", [b"", b"hello", b"PK\x03\x04" + bytes(90), b"PK\x05\x06" * 9])
def test_what_is_no_zip_file_is_refused(tmp_path, data: bytes) -> None:
    (tmp_path / "x.zip").write_bytes(data)
    refused(tmp_path, tmp_path / "x.zip")


def test_a_damaged_zip_file_never_ends_in_another_error(tmp_path) -> None:
    whole = pack(tmp_path / "x.zip", {f"{i}.png": png(seed=i) for i in range(3)}).read_bytes()
    random = np.random.default_rng(0)
    for trial in range(300):
        data = bytearray(whole[: int(random.integers(len(whole)))] if trial % 3 == 0 else whole)
        for place in random.integers(0, max(len(data), 1), 4 if data else 0):
            data[place] = random.integers(256)
        (tmp_path / "y.zip").write_bytes(data)
        goal = tmp_path / f"goal{trial}"
        try:
            unpack(tmp_path / "y.zip", goal, LIMITS)
        except DidaeError:
            assert not goal.exists()
        assert not list(tmp_path.glob(".*.tmp"))
    assert not (tmp_path.parent / "1.png").exists()


def test_a_missing_file_is_an_error(tmp_path) -> None:
    assert "cannot be read" in refused(tmp_path, tmp_path / "none.zip")
