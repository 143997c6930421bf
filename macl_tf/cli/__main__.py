"""`python -m macl_tf.cli` is `macl`."""

import sys

from macl_tf.cli import main

if __name__ == "__main__":
    sys.exit(main())
