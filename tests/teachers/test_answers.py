import pytest

from didae.errors import DidaeError
from didae.teachers import Answers

NAMES = ("foreground", "background")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"background": "spurious", "background": "causal"}'),
        ("a.csv", "direction,verdict\nbackground,spurious\nbackground,causal\n"),
    ],
)
def test_two_answers_on_one_direction_are_refused(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(DidaeError, match=r"a\.\w+: direction 'background' has two answers"):
        Answers.from_file(tmp_path / name, NAMES)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", '{"background": null}', r"a\.json: 'None' is no verdict"),
        ("a.json", "[" * 100_000, "holds no answers"),
        ("a.csv", "verdict,direction\ncausal\n", r"a\.csv: there is no direction ''"),
        ("a.csv", "direction,verdict\nbackground\n", r"a\.csv: '' is no verdict"),
        ("a.csv", 'direction,verdict\n"background,causal\n', "holds no answers"),
        ("a.csv", "direction,verdict\n", "holds no answers"),
        ("a.csv", b"direction,verdict\n\xff,causal\n", "holds no answers"),
        ("none.csv", None, r"none\.csv"),
    ],
)
def test_a_broken_file_ends_with_one_line(tmp_path, name, text, words):
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DidaeError, match=words) as caught:
        Answers.from_file(tmp_path / name, NAMES)
    assert "\n" not in str(caught.value)


def test_files_of_spreadsheets_are_read(tmp_path):
    file = tmp_path / "ANSWERS.CSV"
    file.write_bytes("\ufeffdirection,verdict,note\r\n background , spurious ,dull\r\n".encode())
    assert Answers.from_file(file, NAMES).verdicts == {"background": "spurious"}


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators_of_spreadsheets_are_read(tmp_path, separator):
    file = tmp_path / "a.csv"
    lines = (
        f"direction{separator}verdict",
        f"foreground{separator}causal",
        f"a, b{separator}broken",
    )
    file.write_text("\n".join(lines))
    found = Answers.from_file(file, ("foreground", "a, b")).verdicts
    assert found == {"foreground": "causal", "a, b": "broken"}


@pytest.mark.parametrize("number", ["0", "1", "7"])
def test_a_number_is_refused_with_the_names(tmp_path, number):
    (tmp_path / "a.json").write_text(f'{{"{number}": "spurious"}}')
    with pytest.raises(DidaeError, match="one of 'foreground', 'background'"):
        Answers.from_file(tmp_path / "a.json", NAMES)


def test_a_direction_whose_name_is_a_number_is_found_by_its_name(tmp_path):
    file = tmp_path / "a.json"
    file.write_text('{"0": "causal"}')
    assert Answers.from_file(file, ("1", "0")).verdicts == {"0": "causal"}
