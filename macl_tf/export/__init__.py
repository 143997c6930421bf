"""A run to what serves: the encoder as a SavedModel, a retriever, and what TensorFlow Serving needs."""
