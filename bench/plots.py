"""The pictures of bench.engine's figures, for ``docs/performance.md``.

Only :func:`draw` may import matplotlib, which the extra ``bench`` has. Nothing may be
measured or worked out in here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .scenarios import SCENARIOS
from .subjects import SUBJECTS

IMAGES = Path(__file__).parents[1] / "docs" / "images"
#: What is drawn of each scenario, and what of it is good.
HEADINGS = {
    "burst": "Burst: deliveries/s",
    "paced": "Paced: p99, ms",
    "idle": "Idle: KiB a client",
    "connects": "Connect and join: clients/s",
    "busy": "Beside busy views: p99, ms",
    "slow": "Slow readers: memory, MiB",
}
MORE_IS_BETTER = ("burst", "connects")


@dataclass(frozen=True, slots=True)
class Theme:
    """The colours of a page."""

    page: str
    text: str
    ours: str
    peer: str


THEMES = {
    "light": Theme(page="#ffffff", text="#1f2328", ours="#4f46e5", peer="#c3c8d4"),
    "dark": Theme(page="#0d1117", text="#e6edf3", ours="#8b8cf9", peer="#484f5c"),
}


@dataclass(frozen=True, slots=True)
class Bar:
    """One server's figure.

    Args:
        text: The figure, as it is written beside the bar.
    """

    subject: str
    value: float
    text: str
    ours: bool


@dataclass(frozen=True, slots=True)
class Panel:
    """One scenario's bars, from top to bottom."""

    heading: str
    better: str
    bars: tuple[Bar, ...]


def panels(result: Mapping[str, Any]) -> list[Panel]:
    """Return what there is to draw.

    Args:
        result: What ``bench.engine --json`` has written.
    """
    ours = {subject.name for subject in SUBJECTS if subject.kind == "livepush"}
    found = []
    for name, measured in result["scenarios"].items():
        column = SCENARIOS[name].columns[0]
        bars = tuple(
            Bar(
                row["subject"],
                value := row["figures"][column.key],
                f"{value:,.{column.digits}f}",
                row["subject"] in ours,
            )
            for row in measured["rows"]
            if row["figures"]
        )
        better = "more is better" if name in MORE_IS_BETTER else "less is better"
        found.append(Panel(HEADINGS[name], better, bars))
    return found


def draw(result: Mapping[str, Any]) -> list[Path]:
    """Write the picture for a light and for a dark page; return where they are.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    shown = panels(result)
    written = []
    for name, theme in THEMES.items():
        rows = -(-len(shown) // 2)
        figure, grid = pyplot.subplots(
            rows, 2, figsize=(11, 2.6 * rows), facecolor=theme.page, squeeze=False
        )
        for axes, panel in zip(grid.flat, shown, strict=False):
            _draw_panel(axes, panel, theme)
        for axes in grid.flat[len(shown) :]:
            axes.set_visible(False)
        figure.tight_layout(h_pad=2, w_pad=3)
        path = IMAGES / f"engine-{name}.png"
        # Without the version of matplotlib: the same figures give the same file.
        figure.savefig(path, dpi=110, metadata={"Software": None})
        pyplot.close(figure)
        written.append(path)
    return written


def _draw_panel(axes: Any, panel: Panel, theme: Theme) -> None:
    names = [bar.subject for bar in panel.bars]
    values = [bar.value for bar in panel.bars]
    colours = [theme.ours if bar.ours else theme.peer for bar in panel.bars]
    drawn = axes.barh(names, values, color=colours, height=0.68)
    axes.bar_label(
        drawn,
        [bar.text for bar in panel.bars],
        padding=4,
        fontsize=9,
        color=theme.text,
    )
    axes.set_title(
        f"{panel.heading} ({panel.better})", loc="left", fontsize=11, color=theme.text
    )
    axes.invert_yaxis()  # the first on top
    axes.margins(x=0.16)
    axes.set_facecolor(theme.page)
    axes.spines[:].set_visible(False)
    axes.tick_params(left=False, bottom=False, labelbottom=False, labelsize=9)
    axes.tick_params(colors=theme.text)
