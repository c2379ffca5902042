# SPDX-License-Identifier: Apache-2.0
"""What the farm itself costs: one module a topic, each with `measure(rounds) -> list[Line]`; benchmarks/run.py prints them."""
