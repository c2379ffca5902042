# SPDX-License-Identifier: Apache-2.0
"""The nightly: what is due, the steps of a night, who is told. Set-up and course: docs/nightly.md."""
