"""Commands that make the tables of the README and docs; their results are committed as JSON."""
