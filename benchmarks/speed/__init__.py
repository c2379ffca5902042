# SPDX-License-Identifier: Apache-2.0
"""What the farm itself costs, one module a topic.

Each has `measure(rounds: int) -> list[Line]`, and is run by itself with `python -m benchmarks.speed.TOPIC`.
"""
