"""TensorFlow Serving's REST interface as far as its clients here use it, answered from the same folder.

Form of requests, answers and errors: tensorflow/serving, g3doc/api_rest.md and util/json_tensor.cc.
"""

import base64
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import tensorflow as tf

PATH = re.compile(r"/v1/models/encoder(/labels/(?P<label>\w+)|/versions/(?P<version>\d+))?(:predict)?")


@contextmanager
def loopback_server(folder, labels):
    """Serves the version folders in `folder` as the model "encoder"; yields the URL."""
    models = {int(path.name): tf.saved_model.load(str(path)) for path in folder.iterdir() if path.name.isdecimal()}

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def reply(self, code, body):
            data = json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self):
            states = [{"version": str(number), "state": "AVAILABLE"} for number in models]
            self.reply(200, {"model_version_status": states})

        def do_POST(self):
            match = PATH.fullmatch(self.path)
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if match["label"] and match["label"] not in labels:
                return self.reply(400, {"error": f"Unrecognized servable version label: {match['label']}"})
            number = int(match["version"] or labels.get(match["label"]) or max(models))
            return self.reply(*predict(models[number], body))

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def predict(model, body):
    """Status and answer to a request in row format: a list of instances in, a list of predictions out."""
    name = body.get("signature_name", "serving_default")
    signature = model.signatures[name]
    _, inputs = signature.structured_input_signature
    if not body.get("instances"):
        return 400, {"error": "No values in 'instances' array"}
    (key, spec), *others = inputs.items()
    assert not others, "several inputs need named values in each instance"
    values = [plain(row[key] if isinstance(row, dict) and key in row else row) for row in body["instances"]]
    tensor = tf.constant(values if spec.dtype == tf.string else np.array(values), spec.dtype)
    outputs = {output: value.numpy() for output, value in signature(**{key: tensor}).items()}
    assert {len(value) for value in outputs.values()} == {len(values)}, "each output must have the size of the batch"
    rows = [{output: readable(value[row]) for output, value in outputs.items()} for row in range(len(values))]
    return 200, {"predictions": rows if len(outputs) > 1 else [next(iter(row.values())) for row in rows]}


def plain(value):
    return base64.b64decode(value["b64"]) if isinstance(value, dict) else value


def readable(value):
    return value.decode() if isinstance(value, bytes) else value.tolist()
