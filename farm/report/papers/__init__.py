# SPDX-License-Identifier: Apache-2.0
"""Tables and figures of published papers from this farm's records: select -> view -> tables -> figures -> document."""

from farm.report.papers.document import compose_paper, write_paper
from farm.report.papers.published import papers

__all__ = ["compose_paper", "papers", "write_paper"]
