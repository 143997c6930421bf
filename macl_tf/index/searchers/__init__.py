"""Nearest neighbours of unit vectors: exact, or by ScaNN, tuned to a recall."""
