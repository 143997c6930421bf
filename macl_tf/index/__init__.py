"""The index beside an exported encoder: items, vectors, filters, a journal of changes. No TensorFlow."""
