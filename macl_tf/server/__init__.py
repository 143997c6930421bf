"""The search service: an HTTP API and a page over a folder that `macl export` wrote. Needs the extra `serve`."""
