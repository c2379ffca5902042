# SPDX-License-Identifier: Apache-2.0
"""Nights side by side: what changed from one to the next, what of it is real. Rules in docs/regressions.md."""
