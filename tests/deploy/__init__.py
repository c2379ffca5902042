# SPDX-License-Identifier: Apache-2.0
"""Deployment, on hosts with a real systemd: `make test-deploy`."""
