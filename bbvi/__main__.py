"""``python -m bbvi``."""

import sys

from bbvi.cli import main

sys.exit(main())
