"""What computes an encoder's graph: TensorFlow, or OpenVINO, which takes the same graph and is faster on processors."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RUNTIMES = ("tensorflow", "openvino", "openvino-bf16")
RUNTIME_HELP = (
    "what computes embeddings: tensorflow (default); openvino, faster on processors (extra openvino); or "
    "openvino-bf16, faster and less exact with AVX512_BF16 or AMX"
)
Pixels = NDArray[Any]  # (B, S, S, 3) in 0 to 255
_PART = 8  # pictures that a core takes at a time: their maps stay in its caches


def check_runtime(runtime: str) -> None:
    """Raises a ValueError for a name that is none of `RUNTIMES`, an ImportError for one that is not installed."""
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime must be one of {', '.join(RUNTIMES)}, got '{runtime}'.")
    if runtime != "tensorflow" and find_spec("openvino") is None:
        raise ImportError(f"runtime={runtime} needs OpenVINO: pip install 'macl_tf[openvino]', or take tensorflow.")


def openvino_function(graph: Any, runtime: str) -> Callable[[Pixels], NDArray[np.float32]]:
    """A TensorFlow graph without variables, compiled by OpenVINO for this processor.

    Several pictures go to the cores in small parts, each core by itself; a single one is shared by all cores.

    Args:
        graph: A concrete tf.function from pixels (B, S, S, 3) float32 to (B, D).
        runtime: "openvino" computes in float32, "openvino-bf16" in bfloat16 where the processor has instructions for it
            (AVX512_BF16, AMX), else in float32 too.

    Returns:
        Function from pixels of any numeric type to (B, D) float32. Any number of threads may call it, one at a time
        is served, with all cores.

    Raises:
        ValueError: If the graph has operations that OpenVINO does not know.
    """
    import openvino

    core = openvino.Core()
    precision = {"INFERENCE_PRECISION_HINT": "bf16" if runtime == "openvino-bf16" else "f32"}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "graph.pb"
        file.write_bytes(graph.graph.as_graph_def().SerializeToString())
        try:
            model = core.read_model(file)
            # By name: what nothing uses, such as the number of a batch's rows, is an output of a plain graph too.
            model = openvino.Model([model.output(graph.outputs[0].name)], model.get_parameters())
            alone = core.compile_model(model, "CPU", {"PERFORMANCE_HINT": "LATENCY", **precision})
            by_core = core.compile_model(model, "CPU", {"PERFORMANCE_HINT": "THROUGHPUT", **precision})
        except RuntimeError as error:
            lines = [line.removeprefix("-- ") for line in str(error).splitlines() if line.startswith("-- ")]
            said = lines[-1] if lines else error
            raise ValueError(f"OpenVINO cannot run this encoder ({said}): take runtime=tensorflow.") from error
    requests, dim, lock = openvino.AsyncInferQueue(by_core), int(graph.outputs[0].shape[-1]), threading.Lock()
    cores = len(requests)

    def run(pixels: Pixels) -> NDArray[np.float32]:
        pixels, count = np.asarray(pixels), len(pixels)
        found = np.empty((count, dim), np.float32)
        size = min(_PART, -(-count // cores))

        def take(request: Any, start: int) -> None:
            found[start : start + size] = request.get_output_tensor().data

        with lock:
            if count == 1:
                found[:] = alone([pixels.astype(np.float32)])[0]
                return found
            requests.set_callback(take)
            for start in range(0, count, size or 1):
                requests.start_async([pixels[start : start + size].astype(np.float32)], start)
            requests.wait_all()
        return found

    return run
