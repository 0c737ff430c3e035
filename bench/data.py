"""Measurements of the data side; each prints a Markdown table.

`python bench/data.py detection WORKSPACE`  planted label errors found, beside cleanlab's Datalab
`python bench/data.py recovery WORKSPACE`   what of their damage cleaning undoes
`python bench/data.py scale`                time and memory of ingest and audit
`python bench/data.py faults DATASETS`      every kind of fault, planted and found
`python bench/data.py vitals`               size and web vitals of a report about 100,000 samples
"""

import importlib
import sys

MEASUREMENTS = ("detection", "recovery", "scale", "faults", "vitals")

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in MEASUREMENTS:
        sys.exit(__doc__)
    importlib.import_module(sys.argv[1]).main(sys.argv[2:])
