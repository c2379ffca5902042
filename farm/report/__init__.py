# SPDX-License-Identifier: Apache-2.0
"""Reports, made from records alone: select -> stats -> tables -> figures -> render. Drawing libraries load on use."""

from farm.report.compose import write_report
from farm.report.document import Document, Section, Sentence
from farm.report.render import ReportFiles, write_document

__all__ = ["Document", "ReportFiles", "Section", "Sentence", "write_document", "write_report"]
