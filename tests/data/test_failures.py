from __future__ import annotations

import pytest

from didae.data.images import png_bytes
from didae.data.square import Square
from didae.data.table import ImageTable, Unread, read_some


def unread(per_class, size=30):
    """Fail the first so many images of each class."""
    names = tuple(per_class)
    labels = [k for k in range(len(names)) for _ in range(size)]
    ids = [f"{names[k]}/{i}" for i, k in enumerate(labels)]
    reasons = {
        k * size + i: f"cannot read image /x/{ids[k * size + i]}: it is empty: no bytes"
        for k, name in enumerate(names)
        for i in range(per_class[name])
    }
    return Unread.of(reasons, ids, labels, names)


def test_a_line_says_number_share_of_each_class_first_file_and_reason():
    found = unread({"cat": 0, "dog": 2})
    assert str(found) == (
        "2 of 60 images cannot be read (cat 0 of 30, dog 2 of 30); "
        "the first, dog/30: it is empty: no bytes"
    )
    assert Unread.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize(
    ("lost", "uneven"),
    [
        ({"cat": 0, "dog": 3}, []),  # A tenth, and few.
        ({"cat": 0, "dog": 4}, ["dog"]),
        ({"cat": 20, "dog": 22}, []),
        ({"cat": 1, "dog": 30, "eel": 20}, ["dog", "eel"]),
        ({"cat": 30}, []),
    ],
)
def test_a_class_that_loses_far_more_is_named(lost, uneven):
    found = unread(lost)
    assert found.uneven == uneven
    assert ("far more images than other classes" in str(found)) == bool(uneven)
    assert not uneven or f"{' and '.join(uneven)} lose" in str(found)


def test_images_that_get_no_answer_are_told_in_a_line():
    names, ids = ("cat", "dog"), [f"{number}.png" for number in range(20)]
    labels = [number // 10 for number in range(20)]
    found = Unread.of(dict.fromkeys(range(14, 20), ""), ids, labels, names, "silent")
    assert str(found) == (
        "6 of 20 images get no finite logits of the classifier (cat 0 of 10, dog 6 of 10); the "
        "first is 14.png. dog loses far more images than other classes, which can bias what is "
        "found: look at them"
    )
    earlier = found.model_dump()
    del earlier["kind"]
    assert "cannot be read" in str(Unread.model_validate(earlier))


def test_few_of_many_are_not_enough_for_a_warning():
    assert unread({"cat": 0, "dog": 50}, size=1000).uneven == []


def test_without_labels_no_class_is_named():
    found = Unread.of({1: "cannot read image b: why"}, ["a", "b"], (), ())
    assert str(found) == "1 of 2 images cannot be read; the first, b: why"


def test_some_are_read_and_all_others_say_why(tmp_path):
    images = Square(10).images(range(3))
    for number, image in enumerate(images):
        (tmp_path / f"{number}.png").write_bytes(png_bytes(image) if number != 1 else b"")
    table = ImageTable.from_folder(tmp_path, on_error="late")
    read, reasons = read_some(table, [2, 1, 0])
    assert (read == images[[2, 0]]).all()
    assert list(reasons) == [1]
    assert reasons[1].endswith("1.png: the file is empty")
    assert read_some(table, [1])[0] is None
