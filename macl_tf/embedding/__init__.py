"""Tiles to vectors: embed an archive tile by tile into shards, resumably."""
