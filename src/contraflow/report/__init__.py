"""The report of a run: one self-contained HTML file."""

from contraflow.report.run_data import ReportSettings, RunData
from contraflow.report.sections import SECTIONS, report_page, write_report

__all__ = ["SECTIONS", "ReportSettings", "RunData", "report_page", "write_report"]
