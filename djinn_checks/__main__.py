"""`python -m djinn_checks` is the command line."""

import sys

from djinn_checks.cli import main

sys.exit(main())
