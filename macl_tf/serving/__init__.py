"""From a run to something that serves: the encoder as a SavedModel, an index beside it, and what reads them."""
