# SPDX-License-Identifier: Apache-2.0
"""A made-up history: simulated devices, nights, and changes that are known, to look at what the farm makes of them."""

from farm.demo.history import Demo, write_demo

__all__ = ["Demo", "write_demo"]
