"""Scenes to an archive of labelled tiles: rasters of any size, with labels from masks or from vectors."""
