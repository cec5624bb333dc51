"""The report of a run: figures as functions of numbers and images, and one self-contained page."""

from didae.report.html import write_first_report, write_report

__all__ = ["write_first_report", "write_report"]
