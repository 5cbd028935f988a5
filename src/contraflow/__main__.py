"""The command as `python -m contraflow`."""

import sys

from contraflow.cli import main

sys.exit(main())
