"""Whatever holds images becomes a table, or is refused with the line that says how to say it."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from didae.data import open_images
from didae.data.images import read_image
from didae.data.square import Square
from didae.errors import DidaeError, ImageReadError

BYTES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 3, 6, 8), np.uint8))
LAST = BYTES.permute(0, 2, 3, 1).numpy()
PICTURES = [Image.fromarray(image) for image in LAST]
EVERY = [0, 1, 2, 3, 4]


class Items(Dataset):
    def __init__(self, items):
        self.items = items
        self.read = []

    def __len__(self):
        return len(self.items)

    def __getitem__(self, row):
        self.read.append(row)
        return self.items[row]


def refusal(*arguments, **options):
    with pytest.raises(DidaeError) as caught:
        open_images(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "images",
    [
        BYTES,
        BYTES.float() / 255,
        BYTES.double() / 255,
        LAST,
        LAST.astype(np.float32) / 255,
        LAST.astype(">f8") / 255,
        LAST[::-1][::-1],
        PICTURES,
        tuple(PICTURES),
        list(LAST),
        list(BYTES),
        list(BYTES.float() / 255),
        Items(list(BYTES)),
        Items([(image,) for image in PICTURES]),
    ],
)
def test_every_kind_gives_the_same_bytes_and_ids(images):
    table = open_images(images)
    assert table.ids == tuple(f"{row:08d}" for row in range(5))
    assert table.labels is None
    assert table.images(EVERY).dtype == torch.uint8
    assert torch.equal(table.images([4, 0, 4]), BYTES[[4, 0, 4]])
    assert open_images(images, size=4).images([]).shape == (0, 3, 4, 4)
    square = open_images(images, size=4).images([3, 1])
    for row, image in zip((3, 1), square, strict=True):
        buffer = io.BytesIO()
        PICTURES[row].save(buffer, format="PNG")
        buffer.seek(0)
        assert torch.equal(image, open_images([Image.open(buffer)], size=4).images([0])[0])


def test_one_channel_is_grey():
    for images in (BYTES[:, :1], LAST[..., :1], list(LAST[..., 0]), list(BYTES[:, 0])):
        assert torch.equal(open_images(images).images(EVERY), BYTES[:, :1].expand(-1, 3, -1, -1))


def test_pictures_follow_the_rules_of_files(tmp_path):
    stored, exif = Image.fromarray(LAST[0]), Image.Exif()
    exif[0x0112] = 6
    clear = Image.fromarray(np.dstack([LAST[1], LAST[1][..., 0]]))
    deep = Image.fromarray(LAST[2][..., 0].astype(np.uint16) * 257)
    names = ("turned.png", "clear.png", "deep.png")
    for name, image in zip(names, (stored, clear, deep), strict=True):
        image.save(tmp_path / name, **({"exif": exif} if name == "turned.png" else {}))
        found = open_images([Image.open(tmp_path / name)]).images([0])[0]
        assert torch.equal(found, read_image(tmp_path / name))
    assert torch.equal(open_images([clear]).images([0])[0], read_image(tmp_path / "clear.png"))


def test_a_table_stays_what_it_is_and_may_be_resized(tmp_path):
    square = Square(10)
    assert open_images(square) is square
    small = open_images(square, size=16)
    assert isinstance(small, Square)
    assert small.images([3, 1]).shape == (2, 3, 16, 16)
    assert square.images([3]).shape == (1, 3, 64, 64)
    assert torch.equal(open_images(square, size=64).images([3]), square.images([3]))
    named = open_images(square, labels=["no", "yes"] * 5)
    assert named.labels.tolist() == [0, 1] * 5
    assert named.label_names == ("no", "yes")
    for row in range(4):
        folder = tmp_path / "ab"[row % 2]
        folder.mkdir(exist_ok=True)
        PICTURES[row].save(folder / f"{row}.png")
    for folder in (tmp_path, str(tmp_path)):
        table = open_images(folder, size=4)
        assert table.ids == ("a/0.png", "a/2.png", "b/1.png", "b/3.png")
        assert table.labels.tolist() == [0, 0, 1, 1]
        assert table.images([0]).shape == (1, 3, 4, 4)


@pytest.mark.parametrize(
    ("labels", "found", "names"),
    [
        ([1, 0, 1, 1, 0], [1, 0, 1, 1, 0], ("0", "1")),
        (np.array([2, 0, 1, 1, 0]), [2, 0, 1, 1, 0], ("0", "1", "2")),
        (torch.tensor([1, 0, 1, 1, 0]), [1, 0, 1, 1, 0], ("0", "1")),
        (["dog", "cat", "dog", "dog", "cat"], [1, 0, 1, 1, 0], ("cat", "dog")),
        ([True, False, True, True, False], [1, 0, 1, 1, 0], ("False", "True")),
        ([torch.tensor(1), np.int64(0), 1, 1, torch.tensor([0])], [1, 0, 1, 1, 0], ("0", "1")),
    ],
)
def test_labels_are_given_beside_the_images_or_by_the_items(labels, found, names):
    table = open_images(BYTES, labels=labels)
    assert (table.labels.tolist(), table.label_names) == (found, names)
    pairs = Items(list(zip(PICTURES, labels, strict=True)))
    table = open_images(pairs)
    assert (table.labels.tolist(), table.label_names) == (found, names)
    assert torch.equal(table.images(EVERY), BYTES)


def test_names_of_classes_come_from_the_data_set():
    items = Items([(image, row % 2) for row, image in enumerate(BYTES)])
    items.classes = ["cat", "dog", "eel"]
    assert open_images(items).label_names == ("cat", "dog", "eel")
    part = open_images(Subset(items, [3, 2]))
    assert (part.labels.tolist(), part.label_names) == ([1, 0], ("cat", "dog", "eel"))
    assert torch.equal(part.images([0]), BYTES[3:4])
    plain = TensorDataset(BYTES, torch.tensor([1, 0, 1, 0, 1]))
    assert open_images(plain).label_names == ("0", "1")


def test_labels_that_are_given_spare_a_pass():
    items = Items([(BYTES[0], 0)] * 50)
    assert len(open_images(items, labels=[0, 1] * 25)) == 50
    assert max(items.read) < 10


@pytest.mark.parametrize(
    ("images", "part"),
    [
        (torch.from_numpy(LAST), "the channels are last; give images.permute(0, 3, 1, 2)"),
        (BYTES.numpy(), "the channels are first; give images.transpose(0, 2, 3, 1)"),
        ([torch.from_numpy(LAST[0])], "the channels are last; give image.permute(2, 0, 1)"),
        ([BYTES[0].numpy()], "image 00000000 of shape (3, 6, 8): the channels are first; give"),
        (torch.zeros(4, 3, 8, 3), "may have channels first or last: give a list of PIL"),
        (np.zeros((4, 3, 8, 3), np.uint8), "may have channels first or last"),
        (torch.zeros(4, 2, 8, 8), "give (n, 3, height, width), 3 channels or 1"),
        (torch.zeros(3, 8, 8), "a single image goes into a list, [image]"),
        (LAST[0], "a single image goes into a list, [image]"),
        (BYTES.float(), "to 255, which must be from 0 to 1: divide them by 255, or give uint8"),
        ([LAST[0].astype(float)], "divide them by 255, or give uint8"),
        (BYTES / 64.0 - 2, "undo their normalisation"),
        (torch.full((1, 3, 4, 4), 1.02), "clamp what a resize carried beyond"),
        (torch.full((1, 3, 4, 4), torch.nan), "NaN or infinite"),
        (BYTES.long(), "type int64 have no known range: give uint8"),
        (LAST.astype(np.uint16), "type uint16 have no known range"),
        (LAST > 9, "type bool have no known range"),
        (np.array([*PICTURES[:1], None], dtype=object), "give (n, height, width, 3)"),
        (PICTURES[0], "are a single image: put it into a list, [image]"),
        (
            [*PICTURES, Image.new("RGB", (9, 6))],
            "00000000 is 8 x 6, 00000005 is 9 x 6; choose a size",
        ),
        (["a.png"], "image 00000000 is of type str: give a PIL image"),
        ([], "there are no images"),
        (torch.zeros(0, 3, 4, 4), "there are no images"),
        (Items([]), "there are no images"),
        (DataLoader(Items(list(BYTES))), "give its data set, loader.dataset"),
        (iter(PICTURES), "cannot be read by rows: give list(images)"),
        (7, "of type int are not understood: give an ImageTable, a folder"),
        (Items([(BYTES[0], 0, 7)]), "have 3 parts, and it is not clear which is the label"),
        (Items([{"image": BYTES[0]}]), "image 00000000 is of type dict"),
        (Items([(BYTES[0], torch.zeros(2))]), "labels, image 0, column 'label'"),
        (Items([(BYTES[0], 0), (BYTES[0, :, :4], 0)]), "differ in size"),
    ],
)
def test_what_is_ambiguous_is_refused_with_how_to_say_it(images, part):
    assert part in refusal(images)


def test_data_sets_that_cannot_be_read_by_rows():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(PICTURES)

    class Endless(Dataset):
        def __getitem__(self, row):
            return PICTURES[row]

    assert "Stream cannot be read by rows" in refusal(Stream())
    assert "Endless has no length: write __len__" in refusal(Endless())


def test_a_data_set_whose_images_change_is_refused():
    class Random(Items):
        def __getitem__(self, row):
            return self.items[row].flip(int(torch.randint(1, 3, ())))

    torch.manual_seed(0)
    assert "another image" in refusal(Random(list(BYTES) * 3))


def test_an_item_that_fails_is_named_and_later_ones_fail_alone():
    class Broken(Items):
        def __getitem__(self, row):
            if row == 20:
                raise OSError("disk gone")
            return self.items[row]

    items = Broken([(image, 0) for image in list(BYTES) * 5])
    assert "cannot read image 00000020: disk gone" in refusal(items)
    table = open_images(items, labels=[0] * 25)
    with pytest.raises(ImageReadError, match="00000020: disk gone"):
        table.images([0, 20])
    assert torch.equal(table.images([21]), BYTES[1:2])


@pytest.mark.parametrize(
    ("labels", "part"),
    [
        ([0, 1], "there are 2 labels for 5 images"),
        ([0, 1, None, 0, 1], "labels, image 2, column 'label': '' is no class"),
        ("kind", "labels='kind' names a column, and these images have none"),
    ],
)
def test_labels_that_do_not_fit(labels, part):
    assert part in refusal(BYTES, labels=labels)


def test_a_data_set_of_hugging_face(tmp_path):
    datasets = pytest.importorskip("datasets")
    kind = datasets.ClassLabel(names=["cat", "dog"])
    buffers = [io.BytesIO() for _ in PICTURES]
    for buffer, picture in zip(buffers, PICTURES, strict=True):
        picture.save(buffer, format="PNG")
    columns = {"image": datasets.Image(), "coarse_label": kind, "fine_label": kind}
    values = {
        "image": [{"bytes": buffer.getvalue(), "path": None} for buffer in buffers],
        "coarse_label": [0, 1, 0, 1, 1],
        "fine_label": [1, 1, 0, 0, 0],
    }
    dataset = datasets.Dataset.from_dict(values, features=datasets.Features(columns))
    said = "choose one with labels, such as labels='coarse_label'"
    assert said in refusal(dataset)
    table = open_images(dataset, labels="fine_label", size=4)
    assert table.labels.tolist() == [1, 1, 0, 0, 0]
    assert table.label_names == ("cat", "dog")
    given = open_images(dataset, labels=["x", "y", "x", "y", "y"])
    assert (given.labels.tolist(), given.label_names) == ([0, 1, 0, 1, 1], ("x", "y"))
    assert torch.equal(open_images(dataset.remove_columns("fine_label")).images(EVERY), BYTES)
    dataset.save_to_disk(str(tmp_path / "saved"))
    assert said in refusal(tmp_path / "saved")
    assert "not streamed" in refusal(dataset.to_iterable_dataset())
