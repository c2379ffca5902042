# SPDX-License-Identifier: Apache-2.0
"""The farm in numbers for Prometheus: what is gathered, under which names, and how it is served."""
