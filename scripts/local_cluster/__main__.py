"""Starts the command line; nothing else."""

import sys

from local_cluster.command_line import main

sys.exit(main())
