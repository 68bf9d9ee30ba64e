"""`python -m trimtab_dashboards`: writes the committed dashboards anew. A test checks that they are current."""

from __future__ import annotations

from trimtab_dashboards.library import FOLDER, made, text

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for uid, dashboard in made().items():
        (FOLDER / f"{uid}.json").write_text(text(dashboard), encoding="utf-8")
