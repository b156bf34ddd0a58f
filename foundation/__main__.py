"""``python -m foundation`` is the ``foundation`` command."""

import sys

from foundation.search_path import leave_working_directory

leave_working_directory()  # before anything is imported that a file of the working directory could stand in for

from foundation.cli import main  # noqa: E402

sys.exit(main())
