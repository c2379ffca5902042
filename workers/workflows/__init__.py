# SPDX-License-Identifier: Apache-2.0
"""One module per way to run a model. Part of the island: Python 3.8, libraries imported inside functions only.

A workflow prepares, loads and runs. It never reads a clock: the runner holds the only one.
"""
