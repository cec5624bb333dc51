"""Real pairs: the rule beside a slow one, planted factors, and what must not be shown."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from didae.data.square import Square
from didae.demo import load_components
from didae.encoders.base import embed
from didae.errors import DidaeError
from didae.explainer.pairs import PAIRS_FILE, RealPairs, read_pairs, write_pairs
from didae.explainer.retrieval import PAIRS, find_pairs
from report.run_folder import NAMES, make_pairs


def world(n: int, k: int = 6, d: int = 24, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Make codes, edits that mirror them, classes that follow the first code, and z."""
    random = torch.Generator().manual_seed(seed)
    z = torch.randn(n, d, generator=random)
    codes = z[:, :k] * torch.linspace(0.5, 3, k)
    return codes, -2 * codes, (codes[:, 0] > 0).long(), z


def slow(codes: Tensor, change: Tensor, k: int, row: int) -> list[tuple[float, int, int]]:
    """List the nearest partners of an image along a direction, in plain loops and in float64."""
    c, e = (v.numpy().astype(np.float64) for v in (codes, change))
    std = c.std(0)
    c, e = c / std, e / std
    low, high = np.quantile(c[:, k], [0.02, 0.98])
    least = 0.7 * (high - low)
    way = np.sign(e[row, k]) or -np.sign(c[row, k])
    goal = min(max(c[row, k] + way * max(abs(e[row, k]), least), low), high)
    found: list[tuple[float, int, int]] = []
    for other in range(len(c)):
        gone, asked = way * (c[other, k] - c[row, k]), way * (goal - c[row, k])
        if asked < least * (1 - 1e-9) or gone < 0.75 * asked:
            continue
        wanted = c[row].copy()
        wanted[k] = goal
        found.append((float(np.sqrt(sum((wanted - c[other]) ** 2))), row, other))
    return sorted(found)[:8]


def test_pairs_are_those_of_a_slow_search() -> None:
    codes, change, _, z = world(120)
    found = find_pairs(codes, change, torch.zeros(120, dtype=torch.long), z)
    often: Counter[int] = Counter()
    for k in range(codes.shape[1]):
        expected: list[tuple[int, int]] = []
        hits = [hit for asking in range(120) for hit in slow(codes, change, k, asking)]
        for _, row, partner in sorted(hits):
            there = {place for pair in expected for place in pair}
            new = not {row, partner} & there and max(often[row], often[partner]) < 2
            if new and len(expected) < PAIRS:
                expected.append((row, partner))
                often.update((row, partner))
        assert found[k] == [
            tuple(sorted(pair, key=lambda p: float(codes[p, k]))) for pair in expected
        ]
        assert len(found[k]) == PAIRS


def test_pairs_differ_in_what_was_planted_along_its_direction_and_in_no_other() -> None:
    codes, change, classes, z = world(2000, k=10)
    planted = z[:, 3] + 0.3 * torch.randn(2000, generator=torch.Generator().manual_seed(1)) > 0
    for k, pairs in enumerate(find_pairs(codes, change, classes, z)):
        assert len(pairs) == PAIRS
        differ = float(np.mean([bool(planted[a] != planted[b]) for a, b in pairs]))
        assert differ >= 0.8 if k == 3 else differ <= 0.35


def test_photographs_of_squares_differ_in_their_factor() -> None:
    square, parts = Square(900), load_components()
    z = embed(parts.encoder, square, range(900))
    codes = parts.dictionary.encode(z)
    factors = np.stack([square.attributes[name] for name in parts.dictionary.names], 1)
    factors = (factors - factors.mean(0)) / factors.std(0)
    found = find_pairs(codes, -2 * codes, torch.from_numpy(square.labels), z)
    for k, pairs in enumerate(found):
        assert len(pairs) == PAIRS
        low, high = np.array(pairs).T
        moved = (factors[high] - factors[low]).mean(0) * np.sign(
            np.corrcoef(codes[:, k], factors[:, k])[0, 1]
        )
        assert moved[k] > 2
        assert np.abs(np.delete(moved, k)).max() < 0.6
    # What the codes do not explain along a direction that was drawn at random.
    random = torch.randn(z.shape[1], 1, generator=torch.Generator().manual_seed(0))
    strange = (z - z.mean(0)) @ random
    strange = strange - codes @ torch.linalg.lstsq(codes, strange).solution
    every = torch.cat([strange, codes], 1)
    low, high = np.array(find_pairs(every, -2 * every, torch.from_numpy(square.labels), z)[0]).T
    assert np.abs((factors[high] - factors[low]).mean(0)).max() < 0.6


def test_no_image_and_no_copy_is_shown_again_and_again() -> None:
    codes, change, classes, z = world(90)
    noise = 1e-3 * torch.randn(z.shape, generator=torch.Generator().manual_seed(2))
    twice = [torch.cat([v, v]) for v in (codes, change, classes)]
    found = find_pairs(*twice, torch.cat([z, z + noise]))
    often: Counter[int] = Counter()
    for pairs in found:
        shown = [place % 90 for pair in pairs for place in pair]
        assert len(shown) == len(set(shown))
        assert len(pairs) > 1
        often.update(place for pair in pairs for place in pair)
    assert max(often.values()) <= 2


def test_both_classes_have_their_turn() -> None:
    codes, change, _, z = world(600)
    classes = (torch.arange(600) % 10 == 0).long()
    for k, pairs in enumerate(find_pairs(codes, change, classes, z)):
        # The image that asked is the one whose partner a slow search finds.
        rare = sum(int(classes[a] + classes[b] > 0) for a, b in pairs)
        assert rare >= PAIRS // 2, k


def test_a_code_that_hardly_varies_has_no_pairs() -> None:
    codes, change, classes, z = world(80)
    codes[:, 2] = 1.0
    found = find_pairs(codes, change, classes, z)
    assert found[2] == []
    assert found[1]


def test_twenty_thousand_images_take_seconds() -> None:
    codes, change, classes, z = world(20_000, k=10, d=64)
    start = time.process_time()
    assert all(len(pairs) == PAIRS for pairs in find_pairs(codes, change, classes, z))
    assert time.process_time() - start < 20


def test_what_is_saved_is_read_again_and_what_is_stale_is_removed(tmp_path: Path) -> None:
    made = make_pairs(tmp_path)
    (tmp_path / "pairs" / "999999.png").write_bytes(b"of an earlier attempt")
    write_pairs(made, tmp_path)
    assert read_pairs(tmp_path) == made.directions
    assert {f"pairs/{path.name}" for path in (tmp_path / "pairs").glob("*.png")} == {*made.images}
    assert str(tmp_path) not in (tmp_path / PAIRS_FILE).read_text()


@pytest.mark.parametrize("text", ["[]", '{"directions": [{"index": "x"}]}', '{"directions": 3}'])
def test_a_damaged_file_is_refused_in_a_line(tmp_path: Path, text: str) -> None:
    make_pairs(tmp_path)
    (tmp_path / PAIRS_FILE).write_text(text)
    with pytest.raises(DidaeError, match=r"pairs\.json"):
        read_pairs(tmp_path)


def test_a_figure_shows_every_pair(tmp_path: Path) -> None:
    made = make_pairs(tmp_path)
    figure = made.figure(NAMES[1])
    count = len(made.directions[1].pairs)
    assert [len(axis.images) for axis in figure.axes] == [1] * 2 * count
    assert figure.axes[0].get_title() == made.directions[1].pairs[0][0].predicted
    with pytest.raises(DidaeError, match="there is no direction 'nothing'"):
        made.figure("nothing")


def test_no_direction_is_no_failure() -> None:
    assert RealPairs((), {}).directions == ()
