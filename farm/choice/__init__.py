# SPDX-License-Identifier: Apache-2.0
"""Which workflow, precision and batch to choose under stated limits, from what was measured. Pure."""
