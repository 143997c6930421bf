"""How well an encoder retrieves: rankings of each query, metrics of them, reports."""
