"""Checks an ONNX file that `glmc-engine export` wrote: by onnx's own checker where it is installed, and by onnxruntime.

    python3 tools/check_onnx.py model.onnx                      # what it is, and whether it is valid
    python3 tools/check_onnx.py model.onnx --data cifar.lt      # top-1 on a store's test images of one size
    python3 tools/check_onnx.py model.onnx --against FOLDER     # what `glmc-engine export --check` runs

FOLDER holds `request.json` and raw little-endian arrays: the images, and what the engine made of them. One line of JSON is printed.
Exit status 3 where onnxruntime or NumPy is missing.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

try:
    import numpy as np
    import onnxruntime
except ImportError as lacking:
    print(f"error: {lacking}", file=sys.stderr)
    sys.exit(3)


def validate(path: Path) -> dict[str, Any]:
    """onnx's checker and strict shape inference; raises ValueError where a shape stays unknown. Empty without onnx."""
    try:
        import onnx
    except ImportError:
        return {"onnx": None}
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph
    known = {value.name for value in [*inferred.value_info, *inferred.output]}
    unknown = [name for node in inferred.node for name in node.output if name not in known]
    if unknown:
        raise ValueError(f"no shape can be inferred for {', '.join(unknown[:5])}")
    return {
        "onnx": onnx.__version__,
        "ir_version": model.ir_version,
        "opset": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        "nodes": len(model.graph.node),
    }


def signature(session: onnxruntime.InferenceSession) -> dict[str, Any]:
    """Inputs, outputs and metadata as onnxruntime sees them."""
    described = {"onnxruntime": onnxruntime.__version__, "metadata": dict(session.get_modelmeta().custom_metadata_map)}
    for kind, values in (("inputs", session.get_inputs()), ("outputs", session.get_outputs())):
        described[kind] = {value.name: [value.type, value.shape] for value in values}
    return described


def predict(session: onnxruntime.InferenceSession, images: np.ndarray, batch: int = 64) -> dict[str, np.ndarray]:
    """Every output, N,..., of images as the graph takes them; the last batch is smaller."""
    names = [output.name for output in session.get_outputs()]
    parts = [session.run(names, {"image": images[at : at + batch]}) for at in range(0, len(images), batch)]
    return {name: np.concatenate(values) for name, values in zip(names, zip(*parts, strict=True), strict=True)}


def compare(session: onnxruntime.InferenceSession, folder: Path) -> dict[str, Any]:
    """Per output and image, the largest difference from the engine's values; and the class that is first."""
    request = json.loads((folder / "request.json").read_text())

    def array(name: str) -> np.ndarray:
        wanted = request["arrays"][name]
        return np.fromfile(folder / name, wanted["dtype"]).reshape(wanted["shape"])

    found = predict(session, array("image"))
    differences, first = {}, []
    for name, values in found.items():
        off = np.abs(values.astype(np.float64) - array(name)).max(axis=1)
        # JSON has no NaN.
        differences[name] = [float(d) if math.isfinite(d) else None for d in off]
    scores = found.get("logits", found.get("probabilities"))
    if scores is not None:
        first = scores.argmax(1).tolist()
    return {"differences": differences, "first": first}


def score(session: onnxruntime.InferenceSession, store: Path) -> dict[str, Any]:
    """Top-1 in percent on the test images of a store, which have one size: that of the graph."""
    pixels = np.load(store / "test" / "pixels.npy", mmap_mode="r")
    labels = np.load(store / "test" / "labels.npy")
    entry = session.get_inputs()[0]
    height, width = entry.shape[1:3] if entry.type == "tensor(uint8)" else entry.shape[2:]
    if pixels.ndim != 4 or pixels.shape[1:3] != (height, width):
        raise ValueError(f"{store}: test images of {pixels.shape[1:]}, and the graph takes {height}x{width}")
    images = np.ascontiguousarray(pixels)
    if entry.type != "tensor(uint8)":
        images = images.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    found = predict(session, images)
    first = found.get("logits", found.get("probabilities")).argmax(1)
    return {"images": len(labels), "top1": 100 * int((first == labels).sum()) / len(labels)}


def main() -> int:
    """Command line: see the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    try:
        result = validate(options.model)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.threads
        session = onnxruntime.InferenceSession(options.model, settings, providers=["CPUExecutionProvider"])
        result |= signature(session)
        if options.against:
            result |= compare(session, options.against)
        if options.data:
            result |= score(session, options.data)
    except Exception as error:  # noqa: BLE001 -- onnx and onnxruntime have no common base of their errors
        print(f"error: {options.model}: {' '.join(str(error).split())[:500]}", file=sys.stderr)
        return 1
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
