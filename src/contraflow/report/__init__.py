"""A run as a page to look at: one HTML file that asks for nothing from outside."""

from contraflow.report.contents import SECTIONS, report_page, write_report
from contraflow.report.subject import ReportSettings, Subject

__all__ = ["SECTIONS", "ReportSettings", "Subject", "report_page", "write_report"]
