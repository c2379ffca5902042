# SPDX-License-Identifier: Apache-2.0
"""What records show that nobody asked about: each finding with its evidence. Pure; docs/findings.md has the rules."""

from farm.findings.find import RULES, find
from farm.findings.model import Evidence, Examined, Finding, Findings, Sure

__all__ = ["RULES", "Evidence", "Examined", "Finding", "Findings", "Sure", "find"]
