"""`python train.py ...` is `macl train ...`."""

import sys

from macl_tf.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
