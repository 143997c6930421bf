"""Archives to batches: label-aware sampling, augmentation, tf.data."""
