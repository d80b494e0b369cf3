"""The findings as one HTML page that holds everything itself: no script, no other file, no request."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

from latentsync.evaluate.cache import Cache
from latentsync.evaluate.findings import Findings
from latentsync.evaluate.plots import COLOURS, Group, Panel, Point, scatter, strip_plot
from latentsync.evaluate.score import REAL, ClipScores
from latentsync.evaluate.table import certainty, label, number
from latentsync.evaluate.totals import Cell, Column, MethodRow

_CONFIDENCE_AND_OFFSET = (("sync_conf", "sync_offset"), ("sync_conf_compact", "sync_offset_compact"))
_WORST_BY = ("sync_conf", "sync_conf_compact", "ssim")  # the first that was measured
_WORST_CLIPS = 4
_LISTED = 200  # excluded clips on the page; the CSV has them all
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"  # nothing leaves the page
_CAPTION = (
    "Mean over the used clips, 95 % interval by bootstrap over clips, n clips behind it. "
    "↑ more is better, ↓ less."
)
_STYLE = """
:root{color-scheme:light dark;--line:#8886;--soft:#8882}
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem}
h1{font-size:1.5rem;margin-bottom:.2rem}h2{font-size:1.2rem;margin-top:2.2rem}
h3{font-size:1rem;margin:1.4rem 0 .3rem}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
caption{text-align:left;padding:.3rem 0;color:GrayText}
th,td{padding:.25rem .7rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
th,td{white-space:nowrap}
td.text{white-space:normal;overflow-wrap:anywhere}thead th{border-bottom:2px solid var(--line)}
.paper{background:var(--soft)}small{color:GrayText}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem}
dt{color:GrayText}dd{margin:0;overflow-wrap:anywhere}.plots{display:flex;flex-wrap:wrap;gap:1rem}
figure{margin:0}figcaption{font-size:.85rem}figure img{max-width:100%;height:auto;display:block}
svg{max-width:100%}svg text{font-size:11px;fill:CanvasText}.grid{stroke:#8884}.axis{stroke:#888}
.mean{stroke:CanvasText;stroke-width:2}
"""


def write_page(findings: Findings, cache: Cache) -> str:
    """The page as text. Pictures of the worst clips come out of `cache`."""
    sections = [_setting(findings, setting, cache) for setting in findings.settings]
    return page(findings.title, [facts(findings.facts), *sections, _matching(findings), _excluded(findings)])


def page(title: str, sections: Iterable[str]) -> str:
    """A whole page around its sections, which are HTML already."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{_text(title)}</h1>\n{chr(10).join(sections)}\n</body></html>\n"
    )


def facts(rows: Sequence[tuple[str, str]]) -> str:
    """A list of labels and what they stand for."""
    return f"<dl>{''.join(f'<dt>{_text(name)}</dt><dd>{_text(text)}</dd>' for name, text in rows)}</dl>"


def figure(drawing: str, caption: str) -> str:
    """A drawing and the words below it; nothing for no drawing."""
    return f"<figure>{drawing}<figcaption>{_text(caption)}</figcaption></figure>" if drawing else ""


def _setting(findings: Findings, setting: str, cache: Cache) -> str:
    rows = findings.rows(setting)
    scores = [one for one in findings.scores if one.setting == setting and not one.reason]
    parts = [f"<h2>{_text(setting.capitalize())}</h2>", _table(findings, setting)]
    absent = findings.absent(setting)
    if absent:
        listed = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in absent.items())
        parts.append(f"<p><small>Not measured here: {_text(listed)}.</small></p>")
    parts.append(
        "<h3>Every clip</h3><p><small>A point is a clip, the bar the mean, the line its interval.</small></p>"
    )
    parts.append(f'<div class="plots">{"".join(_strip_plots(findings.columns(setting), rows, scores))}</div>')
    parts += [_confidence_over_offset(rows, scores), _worst(rows, scores, cache)]
    return "\n".join(parts)


def _table(findings: Findings, setting: str) -> str:
    rows, stated = findings.rows(setting), findings.stated(setting)
    head = "".join(f'<th scope="col">{_text(row.method)}</th>' for row in rows)
    head += "".join(
        f'<th scope="col" class="paper">{_text(name)} <small>paper</small></th>' for name, _ in stated
    )
    used = "".join(f"<td>{row.used} of {row.clips}</td>" for row in rows) + '<td class="paper"></td>' * len(
        stated
    )
    body = [f'<tr><th scope="row">clips used</th>{used}</tr>']
    for column in findings.columns(setting):
        cells = "".join(f"<td>{_cell(row.cells.get(column.name, Cell()))}</td>" for row in rows)
        told = (values.get(column.name) for _, values in stated)
        cells += "".join(f'<td class="paper">{"" if value is None else number(value)}</td>' for value in told)
        body.append(f'<tr><th scope="row">{_text(label(column))}</th>{cells}</tr>')
    caption = _CAPTION
    if findings.caveat(setting):
        caption += f" Here {findings.caveat(setting)}."
    if stated:
        caption += f" Shaded: stated in {findings.paper_source}."
    return (
        f'<div class="wide"><table><caption>{_text(caption)}</caption><thead><tr><th scope="col">number</th>'
        f"{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _cell(cell: Cell) -> str:
    if cell.value is None:
        return "–"
    return f"{number(cell.value)}<br><small>{_text(certainty(cell))}</small>"


def _strip_plots(
    columns: Sequence[Column], rows: Sequence[MethodRow], scores: Sequence[ClipScores]
) -> list[str]:
    plots = []
    for column in columns:
        groups = []
        for row in rows:
            values = [
                (one.clip, one.values[column.name])
                for one in scores
                if one.method == row.method and column.name in one.values
            ]
            cell = row.cells.get(column.name, Cell())
            groups.append(Group(row.method, values, cell.value, cell.low, cell.high))
        plots.append(figure(strip_plot(f"{column.name} of every clip", groups), label(column)))
    return plots


def _confidence_over_offset(rows: Sequence[MethodRow], scores: Sequence[ClipScores]) -> str:
    return "".join(_judged(*names, rows, scores) for names in _CONFIDENCE_AND_OFFSET)


def _judged(confidence: str, offset: str, rows: Sequence[MethodRow], scores: Sequence[ClipScores]) -> str:
    """What one judge said: a panel for each method."""
    judged = [one for one in scores if confidence in one.values and offset in one.values]
    if not judged:
        return ""
    tallest = max(one.values[confidence] for one in judged)
    widest = max(5.0, *(abs(one.values[offset]) for one in judged))
    panel = Panel(280, 220, (-widest - 0.5, widest + 0.5), (min(0.0, tallest), max(1e-6, tallest * 1.08)))
    drawn = []
    for place, row in enumerate(rows):
        points = [
            Point(one.values[offset], one.values[confidence], f"{one.clip}: {one.values[confidence]:.4g}")
            for one in judged
            if one.method == row.method
        ]
        colour = COLOURS[place % len(COLOURS)]
        title = f"{confidence} over offset, {row.method}"
        drawing = scatter(title, points, panel, colour=colour, labels=("offset in frames", confidence))
        drawn.append(figure(drawing if points else "", row.method))
    return f'<h3>{confidence} over offset</h3><div class="plots">{"".join(drawn)}</div>'


def _worst(rows: Sequence[MethodRow], scores: Sequence[ClipScores], cache: Cache) -> str:
    """Strips of the clips with the lowest scores of each method."""
    parts = []
    for row in rows:
        own = [one for one in scores if one.method == row.method]
        by = next((name for name in _WORST_BY if any(name in one.values for one in own)), None)
        if by is None or row.method == REAL:
            continue
        ranked = sorted((one for one in own if by in one.values), key=lambda one: (one.values[by], one.clip))
        sheets = "".join(_sheet(one, by, cache) for one in ranked[:_WORST_CLIPS])
        parts.append(f'<h3>Lowest {by}: {_text(row.method)}</h3><div class="plots">{sheets}</div>')
    return "".join(parts)


def _sheet(one: ClipScores, by: str, cache: Cache) -> str:
    jpeg = cache.read_picture(one.picture)
    if jpeg is None:
        return ""
    described = f"{one.clip}, {one.method}: six frames of the input above the generated ones"
    data = base64.b64encode(jpeg).decode("ascii")
    picture = f'<img alt="{_text(described)}" src="data:image/jpeg;base64,{data}">'
    return figure(picture, f"{one.clip}: {by} {number(one.values[by])} (input above, {one.method} below)")


def _matching(findings: Findings) -> str:
    notes = sorted(findings.notes().items())
    if not notes:
        return ""
    listed = "".join(
        f"<li>{_text(note)}: {count} {'clip' if count == 1 else 'clips'}</li>" for note, count in notes
    )
    return f"<h2>What was done to match videos</h2><ul>{listed}</ul>"


def _excluded(findings: Findings) -> str:
    excluded = list(findings.excluded())
    parts = []
    if excluded:
        rows = "".join(
            f"<tr><td>{_text(one.setting)}</td><td>{_text(one.clip)}</td><td>{_text(one.method)}</td>"
            f'<td>{_text(one.reason)}</td><td class="text">{_text(one.detail)}</td></tr>'
            for one in excluded[:_LISTED]
        )
        names = ("setting", "clip", "method", "reason", "detail")
        head = "".join(f'<th scope="col">{name}</th>' for name in names)
        caption = f"{len(excluded)} videos without scores" + (
            f", the first {_LISTED}" * (len(excluded) > _LISTED)
        )
        parts.append(
            f'<h2>Excluded</h2><div class="wide"><table><caption>{caption}</caption><thead><tr>{head}</tr>'
            f"</thead><tbody>{rows}</tbody></table></div>"
        )
    if findings.totals.unavailable:
        listed = "".join(
            f"<li>{_text(f'{one.name}: {one.reason}')}</li>" for one in findings.totals.unavailable
        )
        parts.append(f"<h2>Not available</h2><ul>{listed}</ul>")
    return "\n".join(parts)


def _text(text: str) -> str:
    return escape(text.encode("utf-8", "replace").decode("utf-8"))
