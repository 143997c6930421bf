"""Times and memory of the losses, the metrics, the pipeline, training, the index and the server."""
