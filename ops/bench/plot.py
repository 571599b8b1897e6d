"""Draw results of `run.py --json` as an SVG: CPU microseconds a request of every side, as multiples of nginx.

Run: `python ops/bench/plot.py docs/performance.json docs/performance.svg`.
"""

from __future__ import annotations

import json
import sys
from html import escape
from pathlib import Path
from typing import Any

Results = dict[str, dict[str, dict[str, Any]]]

COLOURS = {"nginx": "#8a8f98", "relay": "#4c8bf5", "gateway": "#e07b39"}
OTHER = "#b0532a"
BAR, GAP, LEFT, WIDTH, RIGHT = 15, 16, 300, 460, 170


def draw(results: Results) -> str:
    """One group of bars for each case; a bar's length is the ratio to nginx in the same run, its label the figures."""
    groups = {
        title: {side: float(found["cpu_us_per_req"]) for side, found in sides.items()}
        for title, sides in results.items()
    }
    widest = max(cost / sides["nginx"] for sides in groups.values() for cost in sides.values())
    parts: list[str] = []
    y = 44
    for title, sides in groups.items():
        middle = y + len(sides) * BAR / 2 + 4
        parts.append(f'<text x="{LEFT - 12}" y="{middle:.0f}" text-anchor="end">{escape(title)}</text>')
        for side, cost in sides.items():
            ratio = cost / sides["nginx"]
            length = max(1.0, ratio / widest * WIDTH)
            colour = COLOURS.get(side, OTHER)
            label = f"{cost:,.0f} µs, {ratio:.1f} ×" if side != "nginx" else f"{cost:,.0f} µs"
            parts.append(f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR - 2}" fill="{colour}"/>')
            parts.append(f'<text x="{LEFT + length + 6:.1f}" y="{y + BAR - 4}" class="figure">{label}</text>')
            y += BAR
        y += GAP
    names = dict.fromkeys(side for sides in groups.values() for side in sides)
    legend = "".join(
        f'<rect x="{LEFT + at * 120}" y="14" width="12" height="12" fill="{COLOURS.get(side, OTHER)}"/>'
        f'<text x="{LEFT + at * 120 + 18}" y="24">{escape(side)}</text>'
        for at, side in enumerate(names)
    )
    size = f'width="{LEFT + WIDTH + RIGHT}" height="{y}" viewBox="0 0 {LEFT + WIDTH + RIGHT} {y}"'
    style = "text{font:12px sans-serif;fill:#333}.figure{font-size:11px;fill:#555}"
    background = '<rect width="100%" height="100%" fill="#fff"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="CPU time a request">'
        f"<style>{style}</style>{background}{legend}{''.join(parts)}</svg>\n"
    )


def main() -> None:
    source, target = map(Path, sys.argv[1:3])
    target.write_text(draw(json.loads(source.read_text())))


if __name__ == "__main__":
    main()
