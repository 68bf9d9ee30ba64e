"""Writes docs/metrics.md from the catalog: `python docs/make_metrics.py`. A test checks that it is current."""

from pathlib import Path

from trimtab import catalog

PAGE = Path(__file__).with_name("metrics.md")


def page() -> str:
    """The whole page."""
    rows = [
        f"| `{spec.name}` | {spec.kind} | {', '.join(f'`{label}`' for label in spec.labels)} | {spec.unit} | {spec.help} |"
        for spec in catalog.METRICS
    ]
    return "\n".join(
        [
            "# Metrics",
            "",
            "Made from the catalog by `python docs/make_metrics.py`. Every series also has the labels `run` and `rank`.",
            "",
            "| metric | kind | labels | unit | |",
            "| --- | --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    PAGE.write_text(page())
