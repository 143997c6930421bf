"""Embeddings from the served encoder: `python client.py tile.jpg other.png` prints a JSON line for each image."""

import base64
import json
import os
import pathlib
import sys
import urllib.request

SERVER = os.environ.get("MACL_SERVER", "http://127.0.0.1:8501")


def embed(paths, label="stable"):
    """A list of {"embedding": [...], "valid": true}, in order; "valid" is false for what is not an image."""
    images = [base64.b64encode(pathlib.Path(path).read_bytes()).decode() for path in paths]
    body = json.dumps({"instances": [{"image_bytes": {"b64": image}} for image in images]}).encode()
    with urllib.request.urlopen(f"{SERVER}/v1/models/encoder/labels/{label}:predict", body, timeout=60) as answer:
        return json.load(answer)["predictions"]


if __name__ == "__main__":
    try:
        for path, prediction in zip(sys.argv[1:], embed(sys.argv[1:]), strict=True):
            print(json.dumps({"path": path, **prediction}))
    except OSError as error:  # of an HTTP error, the server's own words too
        sys.exit(f"{SERVER}: {error} {error.read().decode() if hasattr(error, 'read') else ''}")
