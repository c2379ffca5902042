# SPDX-License-Identifier: Apache-2.0
"""Start the runner. A bundle's top-level `__main__.py` is this file."""

from workers.runner.main import main

raise SystemExit(main())
