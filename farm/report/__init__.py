# SPDX-License-Identifier: Apache-2.0
"""Reports, made from records alone: select -> stats -> tables -> figures -> render. Drawing libraries load on use."""

from farm.report.render import ReportFiles, write_report

__all__ = ["ReportFiles", "write_report"]
