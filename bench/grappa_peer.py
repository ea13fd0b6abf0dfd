"""The other side of `bench.grappa`: pygrappa in its own environment, one request a line, one answer a line."""

import importlib.metadata
import json
import sys
import time

import numpy as np
import pygrappa


def main() -> None:
    """Answer requests {"file", "function", "kernel", "regularisation", "out"} until the input ends.

    The answer is {"seconds"} of CPU, of the call alone, or {"error"}; the result goes into the file `out`, if not null.
    """
    print(json.dumps({"version": importlib.metadata.version("pygrappa")}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        with np.load(request["file"]) as data:
            kspace, centre = data["kspace"].astype(np.complex128), data["centre"].astype(np.complex128)
        function = getattr(pygrappa, request["function"])
        kernel, strength = tuple(request["kernel"]), request["regularisation"]
        began = time.process_time()
        try:
            result = function(kspace, centre, kernel_size=kernel, coil_axis=0, lamda=strength)
        except ValueError as error:
            print(json.dumps({"error": str(error)}), flush=True)
            continue
        seconds = time.process_time() - began
        if request["out"]:
            np.save(request["out"], result)
        print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
