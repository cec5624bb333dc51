import pytest

from didae.errors import DidaeError
from didae_bench.figures import Ledger


def test_what_is_measured_is_not_measured_again(tmp_path):
    calls = []

    def run():
        calls.append(1)
        return {"aga": 0.5}

    for _ in range(2):
        values = Ledger(tmp_path / "m.json", "a").measure("student", 0, run)
        assert values["aga"] == 0.5
        assert values["seconds"] >= 0
    assert len(calls) == 1
    Ledger(tmp_path / "m.json", "a").measure("student", 1, run)
    assert len(calls) == 2


def test_a_failure_is_not_recorded(tmp_path):
    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Ledger(tmp_path / "m.json", "a").measure("student", 0, fail)
    assert Ledger(tmp_path / "m.json", "a").measure("student", 0, dict)["seconds"] >= 0


def test_other_settings_are_refused(tmp_path):
    Ledger(tmp_path / "m.json", "a").measure("student", 0, dict)
    with pytest.raises(DidaeError, match="choose another folder"):
        Ledger(tmp_path / "m.json", "b")
