"""The loop through real servers: how long it takes, what it holds, and what it withstands.

    python benchmarks/loop.py [--quick] [--only PART ...] [--write]

Needs `apt-get install prometheus prometheus-alertmanager`. Each part runs in a process of its own, one after the other.
`benchmarks/LOOP.md` says how it is measured, and holds the last table that was measured with `--write`.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from parts import Parts
from servers import program

PARTS = Parts(
    Path(__file__),
    {
        "pulled": ("loop_times", "pulled", ()),
        "webhook": ("loop_times", "webhook", ()),
        "process": ("loop_times", "process", ()),
        "panels": ("loop_panels", "measure", ()),
        "scrape": ("scrapes", "measure", ()),
        "malformed": ("loop_malformed", "measure", ()),
        "fleet": ("loop_fleet", "measure", ()),
    },
)


def versions() -> str:
    """Of the servers."""
    said = []
    for names in (("prometheus",), ("prometheus-alertmanager", "alertmanager")):
        told = subprocess.run([program(*names), "--version"], capture_output=True, text=True)
        found = re.search(r"(\w+), version (\S+)", told.stdout + told.stderr)
        said.append(f"{found[1].capitalize()} {found[2]}" if found else names[0])
    return f"{', '.join(said)}. "


if __name__ == "__main__":
    PARTS.main(__doc__ or "", Path(__file__).with_name("LOOP.md"), versions)
