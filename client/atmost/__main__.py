"""`python -m atmost` is the command `atmost`."""

import sys

from atmost.cli import main

if __name__ == "__main__":
    sys.exit(main())
