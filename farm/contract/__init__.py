# SPDX-License-Identifier: Apache-2.0
"""What crosses a process boundary: data only, standard library only, Python 3.8.

The runner executes these modules inside foreign interpreters. Nothing here may import the rest of the farm.
"""
