"""Cut-outs: exact composition, worlds of exact counts, names, and folders that are wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.downloads import make_cutouts
from didae import Cutouts, DidaeError, ImageTable
from didae.cli.sources import SourceConfig
from didae.data import open_images
from didae.data.known import recognise
from didae.data.opening import split_world

HOMES = [home / "shared" / "data" / "leaves" for home in Path(__file__).parents]
LEAVES = next((home for home in HOMES if home.is_dir()), None)


def slow(folder, name, background, size):
    """Compose pixel by pixel in float64, then average boxes of whole pixels."""
    picture = np.asarray(Image.open(folder / f"objects/images/{name}.png").convert("RGB"))
    alpha = np.asarray(Image.open(folder / f"objects/masks/{name}.png")) / 255
    behind = np.asarray(Image.open(folder / f"backgrounds/images/{background}.png").convert("RGB"))
    side = len(alpha)
    whole = np.empty((side, side, 3))
    for row, column in np.ndindex(side, side):
        a = alpha[row, column]
        for channel in range(3):
            own = float(picture[row, column, channel]) if a > 0 else 0.0
            value = round(own + (1 - a) * float(behind[row, column, channel]))
            whole[row, column, channel] = min(max(value, 0), 255)
    step = side // size
    image, mask = np.empty((3, size, size), dtype=np.uint8), np.empty((size, size))
    for row, column in np.ndindex(size, size):
        place = slice(row * step, (row + 1) * step), slice(column * step, (column + 1) * step)
        image[:, row, column] = np.floor(whole[place].mean((0, 1)) + 0.5)
        mask[row, column] = alpha[place].mean()
    return torch.from_numpy(image), torch.from_numpy(mask).float()


def message(read):
    with pytest.raises(DidaeError) as caught:
        read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("size", [None, 4, 2])
def test_composition_is_the_rule(tmp_path, size):
    cutouts = Cutouts(make_cutouts(tmp_path), size)
    images, masks = cutouts.compose([0, 5, 5], [1, 0, 4]), cutouts.masks([0, 5])
    pairs = [("thing_00", "sand_2"), ("thing_05", "sand_1"), ("thing_05", "snow_2")]
    expected = [slow(tmp_path, *pair, size or 8) for pair in pairs]
    assert torch.equal(images, torch.stack([image for image, _ in expected]))
    assert torch.allclose(masks, torch.stack([expected[0][1], expected[1][1]]), atol=1e-6)
    # Another background, or blending instead of adding, is another image.
    assert not torch.equal(images[1], images[2])
    picture = np.asarray(Image.open(tmp_path / "objects/images/thing_05.png"))
    alpha = np.asarray(Image.open(tmp_path / "objects/masks/thing_05.png"))[..., None] / 255
    behind = np.asarray(Image.open(tmp_path / "backgrounds/images/sand_1.png"))
    blended = np.rint(alpha * picture + (1 - alpha) * behind).astype(np.uint8)
    if size is None:
        assert not torch.equal(images[1], torch.from_numpy(blended).permute(2, 0, 1))


@pytest.mark.parametrize("size", [None, 4, 5, 3])
def test_an_object_is_the_same_on_every_background_where_its_mask_is_one(tmp_path, size):
    cutouts = Cutouts(make_cutouts(tmp_path, side=16), size)
    for row in range(4):
        images = cutouts.compose([row] * 6, range(6))
        whole = (cutouts.masks([row])[0] == 1).expand_as(images[0])
        assert all(torch.equal(image[whole], images[0][whole]) for image in images)
    whole = torch.cat([cutouts.masks([row]) for row in range(4)]) == 1
    assert size is not None or 0.2 < whole.float().mean() < 0.5


def test_larger_images_and_single_ones(tmp_path):
    cutouts = Cutouts(make_cutouts(tmp_path), 12)
    images = cutouts.compose([3, 7], [0, 5])
    assert images.shape == (2, 3, 12, 12)
    assert cutouts.masks([3]).shape == (1, 12, 12)
    assert torch.equal(cutouts.compose([7], [5])[0], images[1])
    assert cutouts.compose([], []).shape == (0, 3, 12, 12)
    assert cutouts.masks([]).shape == (0, 12, 12)


def counts(table, split):
    rows = table.splits[split]
    label, family = table.labels[rows], table.attributes["family"][rows].astype(int)
    return np.histogram2d(label, family, bins=[len(table.label_names), 2])[0].astype(int).tolist()


def test_a_world_has_exact_counts_and_grows(tmp_path):
    cutouts = Cutouts(make_cutouts(tmp_path, 160))
    table = cutouts.world(0.9, seed=3)
    assert counts(table, "train") == [[36, 4], [4, 36]]
    assert counts(table, "validation") == counts(table, "test") == [[18, 2], [2, 18]]
    assert counts(cutouts.world("balanced"), "test") == [[10, 10], [10, 10]]
    assert counts(cutouts.world(1), "test") == [[20, 0], [0, 20]]
    assert counts(cutouts.world("0"), "test") == [[0, 20], [20, 0]]
    turned = cutouts.world(0.9, own=["snow", "sand"])
    assert counts(turned, "train") == [[4, 36], [36, 4]]
    assert cutouts.world(0.9, seed=3).ids == table.ids
    assert cutouts.world(0.9, seed=4).ids != table.ids
    # A larger share moves objects to the family of their class alone.
    own = table.labels == table.attributes["family"]
    more = cutouts.world(0.95, seed=3)
    assert (own <= (more.labels == more.attributes["family"])).all()


def test_all_has_every_group_of_every_object(tmp_path):
    cutouts = Cutouts(make_cutouts(tmp_path))
    table = cutouts.world("all")
    assert len(table) == 48
    assert counts(table, "test") == [[3, 3], [3, 3]]
    objects, backgrounds = cutouts.locate(table.ids)
    assert np.array_equal(np.bincount(objects), [2] * 24)
    test = table.splits["test"]
    assert {cutouts.backgrounds[b] for b in backgrounds[test]} == {"sand_3", "snow_3"}
    mixed = cutouts.world("biased", everywhere=["test"])
    assert counts(mixed, "test") == counts(table, "test")
    group, words = mixed.select([3, 0]).groups["family"]
    assert words == ("family sand", "family snow")
    assert group.tolist() == mixed.attributes["family"][[3, 0]].tolist()
    assert np.array_equal(mixed.mirrored(["vertical"]).groups["family"][0][: len(mixed)],
                          mixed.attributes["family"])  # fmt: skip
    assert counts(mixed, "train") == counts(cutouts.world("biased"), "train") == [[5, 1], [0, 6]]
    chosen = mixed.select(mixed.splits["test"])
    objects, backgrounds = cutouts.locate(chosen.ids)
    assert torch.equal(chosen.images([0, 5]), cutouts.compose(objects[[0, 5]], backgrounds[[0, 5]]))
    assert "no OBJECT+BACKGROUND" in message(lambda: cutouts.locate(["thing_00+sea_1"]))
    assert "did you mean 'test'" in message(lambda: cutouts.world(everywhere=["tests"]))


def test_backgrounds_are_drawn_from_the_split_where_no_pairs_are(tmp_path):
    folder = make_cutouts(tmp_path, pairs=False)
    cutouts = Cutouts(folder)
    assert cutouts.worlds == {}
    used = {split: {cutouts.backgrounds[b] for b in cutouts.partners[rows].ravel()}
            for split, rows in cutouts.splits.items()}  # fmt: skip
    assert used["train"] == {"sand_1", "sand_2", "snow_1", "snow_2"} >= used["validation"]
    assert used["test"] == {"sand_3", "snow_3"}
    assert (cutouts.family[cutouts.partners] == [0, 1]).all()
    assert np.array_equal(cutouts.partners, Cutouts(folder).partners)


def test_objects_are_split_where_the_table_does_not_say(tmp_path):
    folder = make_cutouts(tmp_path, 120, pairs=False)
    for table in ("objects", "backgrounds"):
        edited(folder, f"{table}/metadata.csv", "split", "part")
        for split in ("train", "validation", "test"):
            path = folder / table / "metadata.csv"
            path.write_text(path.read_text().replace(f",{split}", ",part"))
    cutouts = Cutouts(folder)
    assert {name: len(rows) for name, rows in cutouts.splits.items()} == {
        "validation": 12, "test": 12, "train": 96
    }  # fmt: skip
    source = SourceConfig(data=f"{folder}@all", image_size=8).open()
    objects = cutouts.locate(source.ids)[0]
    train, test = (set(objects[source.splits[name]]) for name in ("train", "test"))
    assert (len(train), len(test)) == (96, 12)
    assert not train & test


def test_columns(tmp_path, caplog):
    folder = make_cutouts(tmp_path)
    table = open_images(f"cutouts:{folder}")
    assert table.label_names == ("cat", "dog")
    assert list(table.attributes) == ["family", "weight", "tone"]
    assert table.attributes["tone"].tolist() == [float(row % 5 == 0) for row in range(24)]
    assert "world is biased, as pairs.csv says" in caplog.text
    plain = SourceConfig(data=f"cutouts:{folder}", attributes=("none",), label="kind", image_size=8)
    source = plain.open()
    assert source.label_names == ("a", "b", "c")
    assert not source.attributes
    assert source.labels.tolist() == [row % 3 for row in range(24)]
    named = SourceConfig(data=str(folder), attributes=("label", "family"), label="kind").open()
    assert list(named.attributes) == ["family", "label"]
    assert named.images([0]).shape == (1, 3, 64, 64)
    some = SourceConfig(data=str(folder), attributes=("tone",), classes=("dog", "cat")).open()
    assert list(some.attributes) == ["tone"]
    assert some.label_names == ("dog", "cat")


def test_names_of_worlds(tmp_path):
    folder = make_cutouts(tmp_path / "things")
    assert recognise(folder) == ["cutouts"]
    cutouts = Cutouts(folder)
    for name, world in (("", None), ("@biased", "biased"), ("@0.75", 0.75), ("@all", "all")):
        for spec in (f"cutouts:{folder}{name}", f"{folder}{name}", f"{tmp_path}{name}"):
            assert open_images(spec).ids == cutouts.world(world).ids
        assert ImageTable.from_folder(f"{folder}{name}").ids == cutouts.world(world).ids
        opened = SourceConfig(data=f"cutouts:{folder}{name}", image_size=8).open()
        assert opened.ids == cutouts.world(world).ids
    for wrong in ("@bised", "@1.5", "@nan"):
        text = message(lambda end=wrong: open_images(f"{folder}{end}"))
        assert f"no world {wrong[1:]!r}: write biased, balanced, all or a share" in text
    (tmp_path / "plain").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "plain" / "1.png")
    assert "holds no cut-outs" in message(lambda: open_images(f"{tmp_path / 'plain'}@biased"))
    assert "is not a folder" in message(lambda: open_images(f"{tmp_path / 'nowhere'}@biased"))
    # A folder may be called so.
    odd = make_cutouts(tmp_path / "a@all")
    assert split_world(odd) == (odd, "")
    assert len(open_images(odd)) == 24


def edited(folder, table, old, new):
    path = folder / table
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


OBJECTS, BACKGROUNDS, PAIRS = "objects/metadata.csv", "backgrounds/metadata.csv", "pairs.csv"


@pytest.mark.parametrize(
    ("table", "old", "new", "parts"),
    [
        (OBJECTS, "masks/thing_02.png", "masks/gone.png", ["masks/gone.png", "No such"]),
        (OBJECTS, "masks/thing_02.png", "", ["line 4", "mask_file_name", "no file name"]),
        (OBJECTS, "mask_file_name", "mask", ["no column 'mask_file_name'"]),
        (OBJECTS, "images/thing_02.png", "../x.png", ["line 4", "leads out"]),
        (OBJECTS, "masks/thing_02.png", "/x.png", ["line 4", "leads out"]),
        (OBJECTS, "thing_02,cat", "thing_01,cat", ["line 4", "id", "one row"]),
        (OBJECTS, "tone", "family", ["column family", "rename"]),
        (BACKGROUNDS, "images/sand_1.png", "../x.png", ["line 2", "leads out"]),
        (BACKGROUNDS, "images/sand_1.png", "images/gone.png", ["gone.png", "No such"]),
        (BACKGROUNDS, "sand,test", ",test", ["line 4", "no family"]),
        (PAIRS, "thing_02,sand_1", "thing_99,sand_1", ["line 4", "'thing_99' is no object"]),
        (PAIRS, "thing_02,sand_1", "thing_01,sand_1", ["24 rows for 24 objects"]),
        (PAIRS, ",snow\n", ",sea\n", ["'sea' is no family of backgrounds; known are sand, snow"]),
        (PAIRS, "02,sand_1", "02,snow_1", ["'snow_1' is no background of family 'sand'"]),
        (PAIRS, "snow_background", "snw_background", ["'snw_background'", "families are sand"]),
    ],
)
def test_folders_that_are_wrong(tmp_path, table, old, new, parts):
    edited(make_cutouts(tmp_path), table, old, new)
    text = message(lambda: open_images(f"cutouts:{tmp_path}"))
    assert all(part in text for part in parts), text


def test_a_split_without_backgrounds_of_a_family(tmp_path):
    folder = make_cutouts(tmp_path, pairs=False)
    edited(folder, "backgrounds/metadata.csv", "snow_3,snow,test", "snow_3,snow,train")
    text = message(lambda: open_images(folder))
    assert "no background of family 'snow' in split test" in text


def test_pictures_that_are_wrong(tmp_path):
    folder = make_cutouts(tmp_path)
    Image.new("L", (9, 8)).save(folder / "objects/masks/thing_02.png")
    text = message(lambda: open_images(folder))
    assert "masks/thing_02.png is 9 x 8, not 8 x 8" in text
    late = ImageTable.from_folder(folder, on_error="late")
    assert "masks/thing_02.png is 9 x 8" in message(lambda: late.images([2]))
    assert late.images([3]).shape == (1, 3, 8, 8)
    Image.new("RGB", (8, 8), (9, 0, 0)).save(folder / "objects/masks/thing_03.png")
    skipped = ImageTable.from_folder(folder, on_error="skip")
    assert [skip.path for skip in skipped.skipped] == ["thing_02+snow_1", "thing_03+snow_2"]
    assert "has colours" in skipped.skipped[1].reason
    assert len(skipped) == 22
    (folder / "objects/masks/thing_03.png").unlink()
    assert "thing_03.png" in message(lambda: Cutouts(folder).masks([3]))


@pytest.mark.skipif(LEAVES is None, reason="the leaves are not here")
def test_leaves():
    cutouts = Cutouts(LEAVES, 64)
    assert (len(cutouts.ids), cutouts.families, cutouts.side) == (2666, ("ground", "paper"), 128)
    assert cutouts.label_names == ("diseased", "healthy")
    table = cutouts.world()
    assert counts(table, "test") == [[281, 15], [13, 240]]
    assert counts(cutouts.world(0.98), "train") == [[673, 14], [21, 1029]]
    assert counts(cutouts.world("all"), "test") == [[296, 296], [253, 253]]
    cast, healthy = cutouts.attributes["cast"] == 0, cutouts.labels == 1
    assert (cast.sum(), (cast & healthy).sum()) == (708, 587)
    images = cutouts.compose([10, 10], cutouts.partners[10])
    whole = (cutouts.masks([10])[0] == 1).expand_as(images[0])
    assert torch.equal(images[0][whole], images[1][whole])
    assert (images[0][~whole] != images[1][~whole]).float().mean() > 0.9
