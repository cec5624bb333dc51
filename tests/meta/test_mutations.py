"""The table of mutations fits the code, so that it can be run at any time."""

from __future__ import annotations

from pathlib import Path

from mutations import MUTATIONS, outdated


def test_every_mutation_still_breaks_what_it_names() -> None:
    assert outdated() == []
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS) >= 34


def test_a_mutation_whose_text_or_test_is_gone_is_named(tmp_path: Path) -> None:
    assert len(outdated(tmp_path)) == len(MUTATIONS)
    assert "stands 0 times" in outdated(tmp_path)[0] or "is gone" in outdated(tmp_path)[0]
