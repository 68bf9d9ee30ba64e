"""Every figure of the overhead budget, in one table.

    python benchmarks/overhead.py [--quick] [--only PART ...] [--write]

Each part runs in a process of its own, one after the other. `benchmarks/README.md` says how it is measured, and holds
the last table that was measured with `--write`. Some 25 minutes; with `--quick` under 4, with wider intervals.
"""

from __future__ import annotations

from pathlib import Path

import results
from parts import Parts

PARTS = Parts(
    Path(__file__),
    {
        "default-mlp": ("training", "default", ("mlp",)),
        "default-cnn": ("training", "default", ("cnn",)),
        "default-gpt": ("training", "default", ("gpt",)),
        "default-terminal": ("training", "on_terminal", ("mlp",)),
        "default-acting-mlp": ("training", "acting", ("mlp",)),
        "default-acting-cnn": ("training", "acting", ("cnn",)),
        "default-acting-gpt": ("training", "acting", ("gpt",)),
        "default-processes": ("processes", "measure", ()),
        "every-mlp": ("training", "every", ("mlp",)),
        "every-cnn": ("training", "every", ("cnn",)),
        "every-gpt": ("training", "every", ("gpt",)),
        "unsampled": ("training", "unsampled", ()),
        "gradients": ("training", "statistics_of_gpt", ()),
        "compiled": ("compiled", "measure", ()),
        "import": ("imports", "measure", ()),
        "memory": ("memory", "measure", ()),
        "scrape": ("scrapes", "measure", ()),
        "peers": ("peers", "measure", ()),
    },
)


if __name__ == "__main__":
    PARTS.main(__doc__ or "", results.README)
