"""``python -m foundation`` is the ``foundation`` command."""

import sys

from foundation.cli import main

sys.exit(main())
