"""A server that speaks as much of KServe v2 over HTTP as the clients of model repositories need."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

KINDS = {"UINT8": np.uint8, "INT64": np.int64, "FP32": np.float32}


def read_inputs(body: bytes, header_length: int):
    """Arrays by name: described in JSON, whose numbers follow behind it (the binary tensor data extension)."""
    inputs, start = {}, header_length
    for entry in json.loads(body[:header_length])["inputs"]:
        end = start + entry["parameters"]["binary_data_size"]
        inputs[entry["name"]] = np.frombuffer(body[start:end], KINDS[entry["datatype"]]).reshape(entry["shape"])
        start = end
    assert start == len(body)
    return inputs


@contextlib.contextmanager
def serving(models):
    """The address of a server on this machine; `models` are name -> function from arrays to arrays, by name."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            _, version, _, name, verb = self.path.split("/")
            assert (version, verb) == ("v2", "infer")
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if name not in models:
                self.answer(404, {"error": f"unknown model {name}"})
                return
            found = models[name](read_inputs(body, int(self.headers["Inference-Header-Content-Length"])))
            outputs = [{"name": n, "shape": v.shape, "data": v.flatten().tolist()} for n, v in found.items()]
            self.answer(200, {"model_name": name, "outputs": outputs})

        def answer(self, status, content):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
