# SPDX-License-Identifier: Apache-2.0
"""The process that measures. Part of the island: Python 3.8, standard library, started in foreign interpreters.

PYTHON -I BUNDLE_DIR CONTROL_DIR          one prepare or one measured point
PYTHON -I BUNDLE_DIR --probe OUT.json     what this interpreter can do
PYTHON -I BUNDLE_DIR --warm ...           import the libraries once, then fork the processes of the first line
"""
