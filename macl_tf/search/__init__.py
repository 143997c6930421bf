"""A query to ranked items: by id, vector or image, within filters."""
