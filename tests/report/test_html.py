from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from didae.data.images import read_image
from didae.dictionaries.procrustes import CLASS
from didae.errors import DidaeError
from didae.explainer.summary import Summary, summarise
from didae.report import write_report
from didae.report.html import _CARDS, _FIRST, _SHEET
from didae.report.trust import _JUDGE_LABELS
from didae.storage import read_json, read_table
from report.run_folder import make_row, make_run, save, write_table

HOSTILE = """<script>alert("x")</script> & 'größe' 大"""


class Page(HTMLParser):
    """What a browser would see: tags with attributes, and visible text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split()).replace("\u202f", " ")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    folder = tmp_path_factory.mktemp("run")
    _, summary = make_run(folder)
    return folder, summary


def single(folder: Path, **values: object) -> tuple[Path, Summary]:
    """Make a run folder of one image and one row."""
    image = np.full((8, 8, 3), 90, dtype=np.uint8)
    for name in ("a", "a__0", "a__round_trip"):
        save(image, folder / "images" / f"{name}.png")
    row = make_row(factual_file="images/a.png", file="images/a__0.png", **values)
    write_table(folder, [row])
    return folder, summarise([row])


def test_the_page_stands_alone(run: tuple[Path, Summary]):
    path = write_report(*run)
    assert path == run[0] / "report.html"
    page = Page(path)
    assert not [
        tag for tag, _ in page.tags if tag in {"script", "link", "iframe", "object", "base"}
    ]
    for _, attributes in page.tags:
        for key in ("href", "src"):
            address = attributes.get(key)
            assert address is None or address.startswith(("#", "data:image/png;base64,"))
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", path.read_text())


def test_the_same_run_gives_the_same_bytes(run: tuple[Path, Summary]):
    first = write_report(*run).read_bytes()
    assert write_report(*run).read_bytes() == first


def test_a_summary_from_disk_gives_the_same_page(run: tuple[Path, Summary]):
    folder, summary = run
    page = write_report(folder, summary).read_bytes()
    read = Summary.from_json(read_json(folder / "summary.json"))
    assert write_report(folder, read).read_bytes() == page


def test_parts_stand_in_order_and_every_figure_has_a_text_alternative(run: tuple[Path, Summary]):
    folder, summary = run
    page = Page(write_report(folder, summary))
    parts = [a["id"] for tag, a in page.tags if tag in {"section", "article"}]
    cards = [f"direction-{d.index}" for d in summary.directions]
    assert parts == [
        "ranking", *cards, "disentanglement", "decoder", "failures", "glossary", "settings", "next",
    ]  # fmt: skip
    figures = [a for tag, a in page.tags if tag == "img"]
    assert len(figures) > 3 * _FIRST + 3 * len(cards)
    assert all(a["alt"] for a in figures)


def test_links_inside_the_page_lead_somewhere(run: tuple[Path, Summary]):
    page = Page(write_report(*run))
    targets = {a["id"] for _, a in page.tags if "id" in a}
    links = [a["href"] for tag, a in page.tags if tag == "a"]
    assert links
    assert {(link or "")[1:] for link in links} <= targets


def test_figures_of_the_summary_are_on_the_page(run: tuple[Path, Summary]):
    page = Page(write_report(*run)).text
    assert {"277", "12.5", "0.981"} <= set(page.split())
    assert "student accuracy" in page
    assert "decoder.objective" in page
    assert "rectified flow" in page
    assert "no latent flip" in page
    assert "Non-adversarial flip rate, (1/n) Σ" in page


def test_the_strongest_counterfactuals_are_shown_with_their_own_pixels(tmp_path: Path):
    rows = []
    for i in range(_SHEET + 3):
        for suffix, value in (("", 10 * i), ("__0", 10 * i + 5)):
            save(np.full((4, 4, 3), value, dtype=np.uint8), tmp_path / f"{i}{suffix}.png")
        rows.append(make_row(
            image_id=f"image {i}", factual_file=f"{i}.png", file=f"{i}__0.png",
            # The two weakest: no flip at all, and a flip that was not verified.
            ambient_flip=i != 3, verified_flip=i not in (3, 5),
            non_adversarial_flip=i not in (3, 5), probability_after=0.5 - 0.01 * i,
        ))  # fmt: skip
    write_table(tmp_path, rows)
    text = write_report(tmp_path, summarise(rows)).read_text()
    card = text[text.index("<article") :]
    shown = re.findall(r'alt="Image image (\d+)"', card)
    assert [int(i) for i in shown] == [8, 7, 6, 4, 2, 1]
    assert f"The {_SHEET} strongest of {_SHEET + 3} decoded" in text
    body = re.search(
        r'alt="Image image 8".*?<img src="data:image/png;base64,([^"]+)"', card, re.DOTALL
    )
    assert body is not None
    (tmp_path / "back.png").write_bytes(base64.b64decode(body[1]))
    assert (read_image(tmp_path / "back.png") == 85).all()


def test_three_pairs_stand_beside_the_headline(run: tuple[Path, Summary]):
    folder, summary = run
    text = write_report(folder, summary).read_text()
    first = text[text.index("<header") : text.index("</header>")]
    assert first.count('<figure class="pair') == _FIRST
    assert f"along “{summary.directions[0].name}”" in first
    assert first.count("label: ") == _FIRST


def test_what_the_decoder_draws_from_the_embedding_alone_is_shown(tmp_path: Path):
    folder, summary = single(tmp_path)
    assert "Drawn from the embedding alone" not in write_report(folder, summary).read_text()
    for step, value in ((500, 10), (1500, 200)):
        sheet = np.full((4, 4, 3), value, dtype=np.uint8)
        save(sheet, folder / "samples" / f"step-{step:06d}.png")
    text = write_report(folder, summary).read_text()
    assert "After 1500 steps" in text
    body = re.search(r'class="sample" src="data:image/png;base64,([^"]+)"', text)
    assert body is not None
    (tmp_path / "back.png").write_bytes(base64.b64decode(body[1]))
    assert (read_image(tmp_path / "back.png") == 200).all()


def test_a_sheet_that_leads_out_of_the_folder_is_refused(tmp_path: Path):
    folder, summary = single(tmp_path / "run")
    save(np.zeros((4, 4, 3), np.uint8), tmp_path / "secret.png")
    (folder / "samples").mkdir()
    (folder / "samples" / "step-000001.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DidaeError, match="step-000001"):
        write_report(folder, summary)


def test_images_are_counted_by_class(run: tuple[Path, Summary]):
    folder, summary = run
    counted = summary.model_copy(update={"classes": {HOSTILE: 7, "dog": 5}})
    page = Page(write_report(folder, counted))
    assert f"images by class {' '.join(HOSTILE.split())} 7, dog 5" in page.text
    assert "script" not in {tag for tag, _ in page.tags}


def test_what_separates_the_labels_comes_with_how_to_judge_it(tmp_path: Path):
    page = Page(write_report(*single(tmp_path, direction_name=CLASS)))
    assert page.text.count(_JUDGE_LABELS) == 2


def test_the_page_ends_with_commands_and_folds_its_settings(run: tuple[Path, Summary]):
    page = Page(write_report(*run))
    after = page.text[page.text.index("What to do next") :]
    for name in ("app", "label", "repair"):
        assert f"didae {name} {run[0]}" in after
    assert page.tags.index(("details", {})) > page.tags.index(("section", {"id": "settings"}))


def test_names_that_hide_something_are_shown(tmp_path: Path):
    hidden = "safe\u202egnp.exe\x1b[2J\x00\u200e"
    folder, summary = single(tmp_path, direction_name=hidden, image_id=hidden)
    summary = summary.model_copy(update={
        "label_names": (hidden, hidden), "settings": {hidden: hidden}, "failures": {hidden: 1},
        "factors": (hidden,), "code_factor_correlation": ((1.0,),), "measures": {hidden: 1.0},
    })  # fmt: skip
    text = write_report(folder, summary, title=hidden).read_text()
    assert not set("\u202e\x1b\x00\u200e") & set(text)
    assert text.count("\\u202e") >= 10


def test_hostile_names_are_text(tmp_path: Path):
    folder, summary = single(tmp_path, direction_name=HOSTILE, image_id=HOSTILE)
    summary = summary.model_copy(update={
        "label_names": (HOSTILE, HOSTILE), "settings": {HOSTILE: {"b": HOSTILE}},
        "failures": {HOSTILE: 3}, "measures": {HOSTILE: 1.0}, "factors": (HOSTILE,),
        "disentanglement": ((1.0,),), "code_factor_correlation": ((1.0,),),
    })  # fmt: skip
    page = Page(write_report(folder, summary, title=HOSTILE))
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.text.count(" ".join(HOSTILE.split())) >= 10
    known = {"id", "class", "href", "scope", "title"}
    assert not {k for tag, a in page.tags if tag in {"a", "th", "div", "h2"} for k in a} - known


def test_a_run_that_delivered_nothing_still_has_a_page(tmp_path: Path):
    row = make_row(
        status="failed", reason="infeasible", file="", factual_file="", latent_flip=False,
        surrogates=0, surrogate_flips=0, round_trip_psnr=float("nan"),
    )  # fmt: skip
    write_table(tmp_path, [row])
    page = Page(write_report(tmp_path, summarise([row]))).text
    assert "Nothing flips the classifier’s decision: 1 direction on 1 image" in page
    assert "No counterfactual was delivered along this direction." in page
    assert "infeasible 1" in page
    assert "Round trip without" not in page


def test_a_command_is_not_repeated_where_it_is_the_same(tmp_path: Path):
    _, summary = make_run(tmp_path)
    spilt = {"mean_spill": 1.6, "verified_flips": 0, "non_adversarial_flips": 0}
    mixed = [d.model_copy(update=spilt) for d in summary.directions]
    (tmp_path / "run.yaml").write_text("audit: {directions: 4}\n")
    page = Page(
        write_report(tmp_path, summary.model_copy(update={"directions": tuple(mixed)}))
    ).text
    card = page[page.index("Direction 1 of 4") : page.index("Direction 2 of 4")]
    assert "try smaller edits, which change less else, as above." in card
    assert page.index("--audit.explain.strength 1.5") < page.index("Direction 1 of 4")


def test_images_without_finite_logits_are_counted_and_explained(tmp_path: Path):
    row = make_row(status="failed", reason="not finite", file="", factual_file="")
    write_table(tmp_path, [row])
    page = Page(write_report(tmp_path, summarise([row]))).text
    assert "not finite 1 Not finite: the classifier, the encoder or the decoder" in page
    assert "Not finite:" not in Page(write_report(*single(tmp_path / "other"))).text


def test_directions_beyond_the_cards_are_named_not_dropped(tmp_path: Path):
    names = tuple(f"svd {k}" for k in range(_CARDS + 3))
    _, summary = make_run(tmp_path, images=1, names=names)
    page = Page(write_report(tmp_path, summary))
    assert len([1 for tag, _ in page.tags if tag == "article"]) == _CARDS
    assert all(name in page.text for name in names)
    assert "3 weaker directions stand in the ranking only." in page.text


def test_a_missing_image_is_one_clear_line_and_the_old_page_stays(tmp_path: Path):
    folder, summary = single(tmp_path)
    page = write_report(folder, summary).read_bytes()
    (folder / "images" / "a__0.png").unlink()
    with pytest.raises(DidaeError, match=r"a__0\.png") as error:
        write_report(folder, summary)
    assert "\n" not in str(error.value)
    assert (folder / "report.html").read_bytes() == page


def test_a_table_without_a_column_is_one_clear_line(tmp_path: Path):
    row = make_row()
    del row["factual_file"]
    write_table(tmp_path, [row])
    with pytest.raises(DidaeError, match="factual_file"):
        write_report(tmp_path, summarise([row]))


def test_a_folder_without_a_run_is_one_clear_line(tmp_path: Path):
    with pytest.raises(DidaeError):
        write_report(tmp_path / "nowhere", summarise([]))


def test_every_direction_says_whether_it_can_be_trusted(run: tuple[Path, Summary]):
    folder, summary = run
    page = Page(write_report(folder, summary)).text
    assert page.count("realised share 0.99)") + page.count("realised share 0.99;") == 4
    assert page.count(f"round trip {summary.round_trip_psnr:.1f} dB;") == 4
    background = next(d for d in summary.directions if d.index == 1)
    words = f"98 % of {background.ambient_flips} flips outlive noise of ±1/255"
    assert words in page
    assert "Show the counterfactuals" not in page


def test_what_cannot_be_drawn_is_said_before_it_is_shown(tmp_path: Path):
    folder, _ = single(tmp_path)
    rows = read_table(folder / "table").to_pylist()
    summary = summarise([{**row, "code_after": 0.9} for row in rows], stability={0: 1.0})
    page = Page(write_report(folder, summary))
    assert "Not realised : its images hardly show the change that was asked for" in page.text
    assert "realised share 0.05" in page.text
    assert [tag for tag, _ in page.tags if tag in {"details", "article"}] == ["article", "details"]
    assert page.text.index("Show the counterfactuals all the same") < page.text.index(
        "The only decoded counterfactual"
    )


def test_a_run_of_an_earlier_version_has_a_page(run: tuple[Path, Summary]):
    folder, summary = run
    earlier = {"realised": None, "mean_spill": None, "stability": None}
    directions = tuple(d.model_copy(update=earlier) for d in summary.directions)
    page = Page(write_report(folder, summary.model_copy(update={"directions": directions}))).text
    missing = "a number that trust needs is missing from this run"
    assert page.count(f"Not measured : {missing} (round trip") == 4
    assert page.count("realised share not measured; spill not measured; ") == 4
    assert f"but {missing}." in page


def test_trust_has_a_colour_for_every_grade_and_a_word_and_mark_without(
    run: tuple[Path, Summary],
):
    folder, summary = run
    first, second, *rest = summary.directions
    first = first.model_copy(
        update={"mean_spill": 1.62, "verified_flips": 0, "non_adversarial_flips": 0}
    )
    second = second.model_copy(update={"ambient_flips": 9, "stability": 0.1})
    directions = (first, second, *rest)
    path = write_report(folder, summary.model_copy(update={"directions": directions}))
    grades = [a["class"] for tag, a in Page(path).tags if tag == "strong" and a.get("class")]
    assert grades == ["trust bad", "trust doubtful", *["trust good"] * len(rest)]
    text = Page(path).text
    assert "Mixed : other codes move too, and account for most flips (" in text
    assert text.count("mean spill 1.62 std, limit 0.5") == 1
    style = path.read_text()
    for grade in ("good", "doubtful", "bad"):
        assert f".trust.{grade} {{ color: var(--{grade}); }}" in style
        assert f".trust.{grade}::before {{ content:" in style
        colours = re.findall(rf"--{grade}: #(\w{{6}});", style)
        cards = re.findall(r"--card: #(\w{6});", style)
        assert len(colours) == len(cards) == 2
        for colour, card in zip(colours, cards, strict=True):
            assert contrast(colour, card) >= 4.5


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        share = np.array(list(bytes.fromhex(colour))) / 255
        linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
        return float(linear @ np.array([0.2126, 0.7152, 0.0722]))

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_the_contrast_ratio_is_that_of_black_on_white():
    assert contrast("000000", "ffffff") == pytest.approx(21)


def test_the_round_trip_strip_spans_the_worst_and_the_best(run: tuple[Path, Summary]):
    text = write_report(*run).read_text()
    shown = [float(p) for p in re.findall(r"<b>(\d+\.\d)\u202fdB</b>", text)]
    measured = [float(r["round_trip_psnr"]) for r in read_table(run[0] / "table").to_pylist()]
    assert len(shown) == _SHEET
    assert shown == sorted(shown)
    assert (shown[0], shown[-1]) == pytest.approx((min(measured), max(measured)), abs=0.051)
