"""`python -m bench`: the hot-path comparison (`--help` for its flags)."""

import sys

from bench.hot_path import main

sys.exit(main())
