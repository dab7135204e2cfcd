"""`python -m finetune_cli` is `kubectl finetune`."""

import sys

from finetune_cli.app import main

sys.exit(main())
