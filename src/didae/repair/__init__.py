"""Repair: from verdicts to a student that no longer takes the shortcut."""
