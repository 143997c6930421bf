"""`python -m export ...` is `macl export ...`."""

import sys

from macl_tf.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
