"""Run the command line: ``python -m micropod_img``."""

from __future__ import annotations

import sys

from micropod_img.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
