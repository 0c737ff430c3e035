"""Measurements of pretraining; each prints Markdown tables.

`python -m bench.pretraining speed`               samples a second, and share of matrix throughput
`python -m bench.pretraining accuracy WORKSPACE`  time to a probe's accuracy on real data, and memory
"""

import importlib
import sys

MEASUREMENTS = ("speed", "accuracy")

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in MEASUREMENTS:
        sys.exit(__doc__)
    importlib.import_module(f"bench.{sys.argv[1]}").main(sys.argv[2:])
