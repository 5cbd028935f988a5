"""A run as a page to look at: one HTML file that asks for nothing from outside."""

from contraflow.report.run_data import ReportSettings, Subject
from contraflow.report.sections import SECTIONS, report_page, write_report

__all__ = ["SECTIONS", "ReportSettings", "Subject", "report_page", "write_report"]
