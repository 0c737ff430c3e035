"""Measurements of the data side; each prints a Markdown table.

`python -m bench.data detection WORKSPACE`  planted label errors found, beside cleanlab's Datalab
`python -m bench.data recovery WORKSPACE`   what of their damage cleaning undoes
`python -m bench.data scale`                time and memory of ingest and audit
`python -m bench.data faults DATASETS`      every kind of fault, planted and found
`python -m bench.data vitals`               size and web vitals of a report about 100,000 samples
"""

import importlib
import sys

MEASUREMENTS = ("detection", "recovery", "scale", "faults", "vitals")

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in MEASUREMENTS:
        sys.exit(__doc__)
    importlib.import_module(f"bench.{sys.argv[1]}").main(sys.argv[2:])
