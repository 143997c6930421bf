"""The built-in archive: synthetic scenes with skewed labels, drawn from a seed."""

from macl_tf.datasets.synthetic.archive import make_synthetic

__all__ = ["make_synthetic"]
