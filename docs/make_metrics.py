"""Writes docs/metrics.md from the catalog: `python docs/make_metrics.py`. A test checks that it is current."""

from pathlib import Path

from trimtab import catalog

PAGE = Path(__file__).with_name("metrics.md")


def page() -> str:
    """The whole page."""
    rows = []
    for spec in catalog.METRICS:
        labels = ", ".join(f"`{label}`" for label in spec.labels)
        rows.append(f"| `{spec.name}` | {spec.kind} | {labels} | {spec.unit} | {spec.help} |")
    return "\n".join(
        [
            "# Metrics",
            "",
            "Made from the catalog by `docs/make_metrics.py`. Every series also has the labels `run` and `rank`.",
            "In a run that is resumed counters begin at 0 again, as in any process that is started anew. Gauges go on:",
            "the global step, the scale of the learning rate, what is left of budgets. But epochs begin at 1 again.",
            "",
            "| metric | kind | labels | unit | |",
            "| --- | --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    PAGE.write_text(page())
