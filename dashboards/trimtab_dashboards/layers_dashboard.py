"""The dashboard *Layers*: where in the model gradients are, and how far each layer moves."""

from __future__ import annotations

from trimtab import catalog
from trimtab_dashboards.dashboard import Dashboard, Row
from trimtab_dashboards.panels import GREEN, ORANGE, RED, Column, Panel, Query, heatmap, lines, stat, table
from trimtab_dashboards.promql import of_run

NORM = f"max by (layer, depth) ({of_run(catalog.LAYER_GRADIENT_NORM)})"
RATIO = f"max by (layer, depth) ({of_run(catalog.LAYER_UPDATE_RATIO)})"
VANISHED = 1e-3  # of the norm of the best layer; as the signal `vanishing_share` has it


def dashboard() -> Dashboard:
    return Dashboard(
        uid="trimtab-layers",
        description="Gradients and updates of one run, layer by layer.",
        rows=[
            Row(title="How the layers stand", panels=_standing()),
            Row(title="By depth: the input's side above, the output's below", panels=_maps()),
            Row(title="Over time", panels=_over_time()),
            Row(title="Every layer, newest figures", panels=[_table()]),
        ],
    )


def _standing() -> list[Panel]:
    return [
        stat("Layers", "Parameters whose gradients are followed.", Query(f"count({NORM})", "layers"), width=4),
        stat(
            "Dead",
            "Layers without any gradient on the last sampled step.",
            Query(f"count({NORM} == 0) or vector(0)", "dead"),
            bounds=[(None, GREEN), (1, RED)],
        ),
        stat(
            "Vanishing",
            "Layers with less than a thousandth of the largest layer's gradient, dead ones included.",
            Query(f"count({NORM} < {VANISHED:g} * scalar(max({NORM} < Inf))) or vector(0)", "vanishing"),
            bounds=[(None, GREEN), (1, ORANGE)],
        ),
        stat(
            "Not finite",
            "Layers whose gradient held NaN or Inf on the last sampled step.",
            Query(f"count({NORM} - {NORM} != 0) or vector(0)", "not finite"),
            bounds=[(None, GREEN), (1, RED)],
        ),
        stat(
            "Smallest update",
            "How far a step moves the layer that moves least, relative to its weights. About 0.001 is usual.",
            Query(f"min({RATIO})", "ratio"),
            unit="sci",
        ),
        stat(
            "Largest update",
            "How far a step moves the layer that moves most, relative to its weights.",
            Query(f"max({RATIO})", "ratio"),
            unit="sci",
        ),
    ]


def _maps() -> list[Panel]:
    return [
        heatmap(
            "Gradient norm, powers of ten",
            "Logarithm of the 2-norm of each layer's gradient, by depth. -12 stands for no gradient at all.",
            Query(_by_depth(NORM), "{{depth}} {{layer}}"),
        ),
        heatmap(
            "Update ratio, powers of ten",
            "Logarithm of how far a step moved each layer, relative to its weights. About -3 is usual.",
            Query(_by_depth(RATIO), "{{depth}} {{layer}}"),
        ),
    ]


def _by_depth(query: str) -> str:
    """Prometheus sorts series by their labels as text, `depth` first: with zeros before them numbers sort as well."""
    padded = f"log10(clamp_min({query}, 1e-12))"
    for digits, zeros in ((".", "000"), ("..", "00"), ("...", "0")):
        padded = f'label_replace({padded}, "depth", "{zeros}$1", "depth", "({digits})")'
    return padded


def _over_time() -> list[Panel]:
    shares = of_run(catalog.SIGNAL, signal="vanishing_share|dead_share")
    return [
        lines(
            "Gradient norm by layer",
            "2-norm of each layer's gradient, as applied.",
            Query(NORM, "{{depth}} {{layer}}"),
            log=True,
            legend="right",
            width=12,
            height=10,
        ),
        lines(
            "Update ratio by layer",
            "2-norm of what a step changed over that of the weights. About 0.001 is usual.",
            Query(RATIO, "{{depth}} {{layer}}"),
            unit="sci",
            log=True,
            legend="right",
            width=12,
            height=10,
        ),
        lines(
            "Share of layers that do not learn",
            "The signals of the rules gradient_vanishing and layer_dead.",
            Query(f"max by (signal) ({shares})", "{{signal}}"),
            unit="percentunit",
            least=0,
            width=24,
            height=6,
        ),
    ]


def _table() -> Panel:
    def newest(spec: catalog.MetricSpec) -> str:
        return f"max by (layer, depth) ({of_run(spec)})"

    return table(
        "All layers",
        "Figures of the last sampled step, in the model's own order.",
        ("depth", "layer"),
        Column("gradient norm", NORM, unit="sci"),
        Column("gradient mean", newest(catalog.LAYER_GRADIENT_MEAN), unit="sci"),
        Column("gradient variance", newest(catalog.LAYER_GRADIENT_VARIANCE), unit="sci"),
        Column("update ratio", RATIO, unit="sci"),
        height=12,
        sort="depth",
    )
