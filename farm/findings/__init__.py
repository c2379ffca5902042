# SPDX-License-Identifier: Apache-2.0
"""What records show that nobody asked about: each finding with its evidence. Pure."""
