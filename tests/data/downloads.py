"""Small folders laid out exactly as the real data sets lie after their download."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
from PIL import Image

FACES = [
    # file, Blond_Hair, Male, Smiling, split
    ("000001.jpg", -1, 1, 1, 0),
    ("000002.jpg", 1, -1, -1, 0),
    ("000003.jpg", -1, 1, -1, 1),
    ("000004.jpg", 1, -1, 1, 2),
    ("000005.jpg", -1, -1, 1, 2),
]

BIRDS = """\
img_id,img_filename,y,split,place,place_filename
1,001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg,1,2,1,/o/ocean/00002178.jpg
2,001.Black_footed_Albatross/Black_Footed_Albatross_0009_34.jpg,1,0,0,/b/bamboo_forest/1.jpg
3,004.Groove_billed_Ani/Groove_Billed_Ani_0002_1670.jpg,0,1,0,/b/bamboo_forest/00001185.jpg
4,004.Groove_billed_Ani/Groove_Billed_Ani_0113_1540.jpg,0,0,1,/l/lake/natural/00000065.jpg
"""

PATCHES = """\
,patient,node,x_coord,y_coord,tumor,slide,center,split
0,004,4,3328,21792,1,0,0,0
1,004,4,3200,22272,0,0,0,1
2,010,1,1000,2000,0,5,1,0
3,051,2,640,960,1,30,2,1
4,061,0,512,512,0,35,3,0
"""

# Fixed width, no header, as ELPV's own table.
CELLS = """\
images/cell0001.png  1.0                 mono
images/cell0002.png  0.0                 poly
images/cell0003.png  0.3333333333333333  mono
images/cell0004.png  0.6666666666666666  poly
"""


def picture(path: Path, size: tuple[int, int], value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


def make_celeba(folder: Path, layout: str = "torchvision") -> Path:
    tables = {"torchvision": ("", "", ""), "drive": ("Anno", "Eval", "Img")}
    annotations, evaluation, images = (folder / part for part in tables[layout])
    for row, (name, *_) in enumerate(FACES):
        picture(images / "img_align_celeba" / name, (178, 218), 40 * row)
    annotations.mkdir(exist_ok=True)
    evaluation.mkdir(exist_ok=True)
    # The real file ends its line of names with a space and pads its numbers.
    lines = [str(len(FACES)), "Blond_Hair Male Smiling "]
    lines += [f"{name} {blond:2d} {male:2d} {smile:2d}" for name, blond, male, smile, _ in FACES]
    (annotations / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    splits = "".join(f"{name} {split}\n" for name, *_, split in FACES)
    (evaluation / "list_eval_partition.txt").write_text(splits)
    return folder


def make_waterbirds(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metadata.csv").write_text(BIRDS)
    for row, line in enumerate(BIRDS.splitlines()[1:]):
        picture(folder / line.split(",")[1], (60 + row, 50), 50 * row)
    return folder


def make_camelyon17(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metadata.csv").write_text(PATCHES)
    for row, line in enumerate(PATCHES.splitlines()[1:]):
        _, patient, node, x, y, *_ = line.split(",")
        name = f"patch_patient_{patient}_node_{node}_x_{x}_y_{y}.png"
        picture(folder / "patches" / f"patient_{patient}_node_{node}" / name, (96, 96), 40 * row)
    return folder


def make_elpv(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "labels.csv").write_text(CELLS)
    for row, line in enumerate(CELLS.splitlines()):
        path = folder / line.split()[0]
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (300, 300), 60 * row).save(path)
    return folder


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def make_fashion(folder: Path, train: int = 30, test: int = 10, packed: bool = True) -> np.ndarray:
    """Write the four files; return all images."""
    folder.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(0).integers(0, 256, (train + test, 28, 28), dtype=np.uint8)
    labels = np.arange(train + test) % 10
    for name, part in (("train", slice(0, train)), ("t10k", slice(train, None))):
        for kind, array in (("images-idx3", images[part]), ("labels-idx1", labels[part])):
            path = folder / f"{name}-{kind}-ubyte"
            if packed:
                path.with_name(path.name + ".gz").write_bytes(gzip.compress(idx(array)))
            else:
                path.write_bytes(idx(array))
    return images


def make_cutouts(
    folder: Path, n: int = 24, side: int = 8, pairs: bool = True, seed: int = 0
) -> Path:
    """Write n objects of two classes, and six backgrounds of the families sand and snow."""
    rng = np.random.default_rng(seed)
    objects = ["file_name,mask_file_name,id,label,kind,split,weight,tone"]
    listed = ["id,sand_background,snow_background,biased_family"]
    for row in range(n):
        # Quarters of four: each split has both classes.
        split = ("train", "train", "validation", "test")[row // 2 % 4]
        label, kind, tone = ("cat", "dog")[row % 2], "abc"[row % 3], ("dark", "pale")[row % 5 == 0]
        alpha = rng.choice([0, 0, 255, 255, 51, 140], (side, side)).astype(np.uint8)
        # Premultiplied, and noise where nothing is, as JPEG leaves it.
        picture = rng.integers(0, 256, (side, side, 3)) * alpha[..., None] / 255
        picture = np.where(alpha[..., None] > 0, picture, rng.integers(0, 4, (side, side, 3)))
        for part, pixels in (("images", picture.round()), ("masks", alpha)):
            path = folder / "objects" / part / f"thing_{row:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
        files = f"images/thing_{row:02d}.png,masks/thing_{row:02d}.png"
        objects.append(f"{files},thing_{row:02d},{label},{kind},{split},{row * 1.5},{tone}")
        behind = "3" if split == "test" else str(row % 2 + 1)
        family = "sand" if (label == "cat") != (row == 2) else "snow"
        listed.append(f"thing_{row:02d},sand_{behind},snow_{behind},{family}")
    backgrounds = ["file_name,id,family,split"]
    for family in ("sand", "snow"):
        for number in (1, 2, 3):
            path = folder / "backgrounds" / "images" / f"{family}_{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (side, side, 3)).astype(np.uint8)).save(path)
            split = "test" if number == 3 else "train"
            backgrounds.append(f"images/{family}_{number}.png,{family}_{number},{family},{split}")
    (folder / "objects" / "metadata.csv").write_text("\n".join(objects) + "\n")
    (folder / "backgrounds" / "metadata.csv").write_text("\n".join(backgrounds) + "\n")
    if pairs:
        (folder / "pairs.csv").write_text("\n".join(listed) + "\n")
    return folder
