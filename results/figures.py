"""Figures from tables and runs. They need matplotlib (`pip install 'mocoop[figures]'`), imported when one is drawn.

Colours are those of Okabe and Ito, told apart by colour-blind readers; a method has the same colour and marker in every
figure. Figures are PNG, PDF or SVG files without a date, so that the same numbers give the same bytes.
"""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..methods import table as rows_of_methods
from ..runs.layout import BASE, NEW, PROTOCOLS, Place, Setting, main_config
from ..toolbox.dassl.errors import MissingPackage
from ..toolbox.dassl.utils import atomic_write
from .records import Results
from .statistics import ci95, mean_std
from .tables import Cell, Difference, Row, Table, tables_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OTHERS = (("#0072B2", "X"), ("#CC79A7", "*"), ("#8C6D00", "h"))
DPI, DPI_MANY = 130, 92  # of a figure, of one with many panels


def styles() -> dict[str, tuple[str, str]]:
    """Method -> colour and marker, of the methods whose row says them."""
    return {row.name: (row.colour, row.marker) for row in rows_of_methods().values() if row.colour}


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of so many inches.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackage(
            f"figures need matplotlib ({error}); install it with pip install 'mocoop[figures]', or use --no-figures"
        ) from None
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # draws into memory whatever the display
    return figure


def save(figure: "Figure", path: Path) -> Path:
    """Write a figure as what the path's suffix says, .png, .pdf or .svg; returns the path."""
    from matplotlib import rc_context

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        if path.suffix == ".png":
            save_png(figure, temporary)
        else:
            undated = {"CreationDate": None} if path.suffix == ".pdf" else {"Date": None}
            with rc_context({"svg.hashsalt": path.stem, "pdf.fonttype": 42}):  # 42: text that journals can edit
                figure.savefig(temporary, format=path.suffix[1:], metadata=undated)
    return path


def save_png(figure: "Figure", path: str) -> None:
    """Write a figure as PNG with a palette of 256 colours (a third of the size)."""
    from PIL import Image

    memory = io.BytesIO()
    dpi = DPI if len(figure.axes) <= 4 else DPI_MANY
    figure.savefig(memory, format="png", dpi=dpi, metadata={"Software": None})
    image = Image.open(memory).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    image.save(path, format="png", optimize=True)


def style_of(method: str, methods: Sequence[str]) -> tuple[str, str]:
    """Colour and marker of a method; `methods` are all of the figure, for those that we do not know."""
    unknown = [name for name in dict.fromkeys(methods) if name not in styles()]
    free = [other for other in OTHERS if other not in styles().values()] or OTHERS
    return styles().get(method) or free[unknown.index(method) % len(free)]


def panels(figure: "Figure", count: int, columns: int = 4) -> list["Axes"]:
    """Axes in a grid, light grid lines, nothing in what is left of the last line."""
    columns = min(count, columns)
    axes = figure.subplots(math.ceil(count / columns), columns, squeeze=False).flatten()
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(color="#e6e6e6", linewidth=0.7)
        axis.set_axisbelow(True)
    for axis in axes[count:]:
        axis.set_visible(False)
    return list(axes[:count])


def main_rows(table: Table, wanted: Sequence[str] | None = None) -> list[Row]:
    """The rows that figures show: of each method and group that with its main config (not published ones).

    Args:
        table: to take them from.
        wanted: only these methods (None = all).
    """
    rows = [row for row in table.rows if not row.published and (wanted is None or row.method in wanted)]
    configs: dict[tuple, list[str]] = {}
    for row in rows:
        configs.setdefault((row.group, row.method), []).append(row.config)
    main = {key: main_config(names) or names[0] for key, names in configs.items()}
    return [row for row in rows if row.config == main[row.group, row.method]]


def spread(cell: Cell, interval: bool) -> float:
    """Half the height of a band or error bar: population std or half-width of the 95% interval; 0 if unknown."""
    values = list(cell.values.values())
    if not values:
        return 0.0
    return (ci95(values) or 0.0) if interval else mean_std(values)[1]


def spread_words(interval: bool) -> str:
    """What bands and bars show."""
    return "95% interval over seeds" if interval else "std over seeds"


def grouped(rows: Sequence[Row]) -> dict[tuple[str, ...], list[Row]]:
    """Rows by group, in order."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    return groups


def headings(groups: Sequence[tuple[str, ...]]) -> tuple[list[str], str]:
    """Names of groups above their panels, and what they share: shots that differ are in the names, else shared."""
    shots = {group[1:] for group in groups}
    if len(shots) == 1:
        return [group[0] for group in groups], "".join(f", {entry} shots" for entry in shots.pop())
    return [f"{group[0]}, {group[1]} shots" for group in groups], ""


def wrapped(name: str, width: int = 12) -> str:
    """A data set's name in lines of about so many characters, broken at underscores and spaces."""
    lines, joint = [""], ""
    for word in name.replace("_", "_ ").split():
        if lines[-1] and len(lines[-1]) + len(word) > width:
            lines.append(word)
        else:
            lines[-1] += joint + word
        joint = "" if word.endswith("_") else " "
    return "\n".join(line.removesuffix("_") for line in lines)


def shared_legend(figure: "Figure", axes: Sequence["Axes"]) -> None:
    """One legend above all panels, each method once."""
    entries = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    order = sorted(entries, key=lambda name: list(styles()).index(name) if name in styles() else len(styles()))
    style = {"frameon": False, "fontsize": 9.5, "columnspacing": 1.3, "handletextpad": 0.4, "handlelength": 1.6}
    handles = [entries[name] for name in order]
    figure.legend(handles, order, loc="outside upper center", ncols=min(len(order), 6), **style)


def fewshot_curves(table: Table, path: Path, interval: bool = False) -> Path:
    """Accuracy over shots with a band, one panel per data set; what trains nothing is a dashed constant.

    Args:
        table: of few-shot.
        path: of the file (.png, .pdf, .svg).
        interval: the band is the 95% interval instead of the population std.
    """
    from ..methods import untrained

    groups = grouped(main_rows(table))
    wide = min(len(groups), 4)
    figure = new_figure(1.2 + 2.9 * wide if wide > 1 else 5.6, 1.0 + 2.7 * math.ceil(len(groups) / 4))
    axes = panels(figure, len(groups))
    names, _ = headings(list(groups))
    shots = [int(column.split()[0]) for column in table.columns]
    for axis, name, rows in zip(axes, names, groups.values(), strict=True):
        for row in rows:
            colour, marker = style_of(row.method, [r.method for r in table.rows])
            points = [(n, c.mean, spread(c, interval)) for n, c in zip(shots, row.cells, strict=True) if c]
            if not points:
                continue
            x, y, s = zip(*points, strict=True)
            if row.method in untrained():
                axis.axhline(
                    y[0], color=colour, linestyle="--" if marker == "s" else ":", linewidth=1.6, label=row.method
                )
                continue
            axis.plot(x, y, color=colour, marker=marker, markersize=5, linewidth=1.8, label=row.method)
            low, high = [a - b for a, b in zip(y, s, strict=True)], [a + b for a, b in zip(y, s, strict=True)]
            axis.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
        axis.set_xscale("log", base=2)
        axis.set_xticks(shots, [str(n) for n in shots])
        axis.minorticks_off()
        axis.set_title(name, fontsize=10.5)
    figure.supxlabel(f"training images per class (band: {spread_words(interval)})", fontsize=10)
    figure.supylabel("accuracy in %", fontsize=10)
    shared_legend(figure, axes)
    return save(figure, path)


def h_contours(axis: "Axes") -> None:
    """Thin lines of equal H within the limits of a base-against-new panel, labelled at their lower end."""
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    low, high = (2 * a * b / (a + b) for a, b in ((left, bottom), (right, top)))
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100) if (high - low) / s <= 7)
    for h in range(math.ceil(low / step) * step, math.floor(high) + 1, step):
        xs = [left + (right - left) * i / 200 for i in range(201)]
        line = [(x, h * x / (2 * x - h)) for x in xs if 2 * x > h]
        line = [(x, y) for x, y in line if bottom <= y <= top]
        if len(line) < 12:
            continue
        axis.plot(*zip(*line, strict=True), color="#b5b5b5", linewidth=0.8, zorder=1)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
        style = {"fontsize": 7.5, "color": "#707070", "ha": "right", "va": "center", "bbox": box, "zorder": 1.5}
        axis.annotate(f"H {h}", line[-1 - len(line) // 25], **style)
    axis.set(xlim=(left, right), ylim=(bottom, top))


def base_new_scatter(table: Table, path: Path) -> Path:
    """New against base accuracy with lines of equal H: the averages large, single seeds small; a panel per data set.

    Args:
        table: base-to-new.
        path: of the file (.png, .pdf, .svg).
    """
    rows = [row for row in main_rows(table) if row.cells[0] and row.cells[1]]
    groups = grouped(rows)
    wide = min(len(groups), 4)
    high = (1.0 if wide > 1 else 2.0) + 2.8 * math.ceil(len(groups) / 4)
    figure = new_figure(1.0 + 2.9 * wide if wide > 1 else 5.6, high)
    names, shots = headings(list(groups))
    axes = panels(figure, len(groups))
    for axis, name, some in zip(axes, names, groups.values(), strict=True):
        axis.grid(False)
        for row in some:
            colour, marker = style_of(row.method, [r.method for r in rows])
            base, new, _ = row.cells
            seeds = sorted(base.values.keys() & new.values.keys())
            x, y = [base.values[s] for s in seeds], [new.values[s] for s in seeds]
            axis.scatter(x, y, s=14, color=colour, marker=marker, alpha=0.45, linewidths=0, zorder=2)
            axis.scatter(
                *([base.mean], [new.mean]),
                **{"s": 95, "color": colour, "marker": marker, "edgecolors": "white", "linewidths": 1.0},
                **{"label": row.method, "zorder": 3},
            )
        axis.margins(0.14)
        h_contours(axis)
        axis.set_title(name, fontsize=10.5)
    figure.supxlabel(f"accuracy on base classes in %{shots} (small: single seeds)", fontsize=10)
    figure.supylabel("accuracy on new classes in %", fontsize=10)
    shared_legend(figure, axes)
    return save(figure, path)


def h_bars(table: Table, path: Path, interval: bool = False) -> Path:
    """H of each method per data set (and of the averages), whiskers: spread of the seeds' own H.

    Args:
        table: base-to-new.
        path: of the file (.png, .pdf, .svg).
        interval: whiskers are the 95% interval instead of the population std.
    """
    rows = [row for row in main_rows(table) if row.cells[2]]
    groups, methods = grouped(rows), list(dict.fromkeys(row.method for row in rows))
    methods.sort(key=lambda name: list(styles()).index(name) if name in styles() else len(styles()))
    figure = new_figure(max(5.6, 1.2 + 0.17 * len(groups) * (len(methods) + 1.2)), 3.8)
    (axis,) = panels(figure, 1)
    axis.grid(False, axis="x")
    width = 0.84 / len(methods)
    for position, some in enumerate(groups.values()):
        for row in some:
            x = position + (methods.index(row.method) - (len(methods) - 1) / 2) * width
            h, colour = row.cells[2], style_of(row.method, methods)[0]
            axis.bar(x, h.mean, width * 0.9, color=colour, label=row.method)
            axis.errorbar(x, h.mean, spread(h, interval), color="black", linewidth=0.9, capsize=2)
            if len(groups) * len(methods) <= 20:
                top = h.mean + spread(h, interval)
                axis.annotate(
                    f"{h.mean:.1f}", (x, top), xytext=(0, 2), textcoords="offset points", ha="center", fontsize=8
                )
    names, shots = headings(list(groups))
    axis.set_xticks(range(len(groups)), [wrapped(name) for name in names], fontsize=9)
    axis.set_xlim(-0.6, len(groups) - 0.4)
    axis.set_ylabel(f"H of base and new in %{shots}\n(whisker: {spread_words(interval)})", fontsize=9.5)
    shared_legend(figure, [axis])
    return save(figure, path)


def transfer_bars(table: Table, path: Path, interval: bool = False) -> Path:
    """Accuracy of each method on the source, each target and their average, as points with whiskers.

    Args:
        table: of cross-dataset or domain generalization.
        path: of the file (.png, .pdf, .svg).
        interval: see `h_bars`.
    """
    groups = grouped([row for row in main_rows(table) if any(row.cells)])
    figure = new_figure(max(5.6, 1.5 + 0.95 * len(table.columns)), 0.9 + 3.3 * len(groups))
    axes = panels(figure, len(groups), 1)
    for axis, (group, rows) in zip(axes, groups.items(), strict=True):
        for i, row in enumerate(rows):
            colour, marker = style_of(row.method, [r.method for r in rows])
            shift = (i - (len(rows) - 1) / 2) * 0.6 / max(len(rows), 1)
            points = [(k + shift, c.mean, spread(c, interval)) for k, c in enumerate(row.cells) if c]
            x, y, s = zip(*points, strict=True)
            style = {"color": colour, "marker": marker, "linestyle": "none", "markersize": 6.5, "capsize": 2.5}
            axis.errorbar(x, y, s, elinewidth=1.1, label=row.method, **style)
        names = [wrapped(column) for column in table.columns]
        axis.set_xticks(range(len(names)), names, fontsize=9)
        axis.set_xlim(-0.5, len(names) - 0.5)
        axis.grid(False, axis="x")
        for border in (0.5, len(names) - 1.5):
            axis.axvline(border, color="#b5b5b5", linewidth=0.8)
        axis.set_ylabel(f"accuracy in %\n(whisker: {spread_words(interval)})", fontsize=9.5)
        axis.set_title(f"{table.name}, {group[1]} shots", fontsize=10.5)
    shared_legend(figure, axes)
    return save(figure, path)


def difference_plot(differences: Sequence[tuple[str, Difference | None]], path: Path, words: str) -> Path:
    """Paired differences with 95% intervals, one line each, filled where the interval excludes 0.

    Args:
        differences: (label, difference), drawn from top to bottom; None is left empty.
        path: of the file (.png, .pdf, .svg).
        words: of the x axis, e.g. "difference in H to MoCoOp, percentage points".
    """
    figure = new_figure(6.4, 1.1 + 0.32 * len(differences))
    (axis,) = panels(figure, 1)
    axis.axvline(0, color="black", linewidth=0.9)
    for y, (_, value) in enumerate(differences):
        if value is not None:
            fill = "#0072B2" if value.clear else "white"
            style = {"markerfacecolor": fill, "color": "#0072B2", "marker": "o", "capsize": 3, "elinewidth": 1.4}
            axis.errorbar(value.mean, y, xerr=value.half_width or 0.0, **style)
    axis.set_yticks(range(len(differences)), [label for label, _ in differences])
    axis.set_ylim(len(differences) - 0.5, -0.5)
    axis.set_xlabel(words + "\n(95% interval over seeds; filled: it excludes 0)", fontsize=9.5)
    return save(figure, path)


# ---- MoCoOp's routing


def short(template: str) -> str:
    """An expert's template as a label."""
    text = template.strip(" .").replace("{}", "…")
    return text if len(text) <= 34 else text[:33].rstrip() + "…"


def mean_rows(tables: Sequence[Sequence[Sequence[float]]]) -> list[list[float]]:
    """Elementwise mean of tables [R, C] of equal shape."""
    return [
        [math.fsum(values) / len(tables) for values in zip(*rows, strict=True)] for rows in zip(*tables, strict=True)
    ]


def heat_map(
    shares: Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str], path: Path, words: str
) -> Path:
    """Routing shares, experts x anything.

    Args:
        shares: [experts, columns] in 0..1.
        rows: the experts' names.
        columns: names of the columns.
        path: of the file (.png, .pdf, .svg).
        words: the title.
    """
    few, count = len(columns) <= 12, len(columns)
    label = 0.3 if few else 0.07 * max(map(len, columns)) * (count <= 120)
    wide = 0.95 * max(count, 3) if few else min(0.155 * count, 10.5)
    figure = new_figure(3.2 + wide, 0.9 + 0.34 * len(rows) + label)
    axis = figure.subplots()
    top = max(0.5, *(max(row) for row in shares))
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=top, aspect="auto")
    axis.set_yticks(range(len(rows)), [short(row) for row in rows], fontsize=9)
    if few:
        axis.set_xticks(range(count), [wrapped(name) for name in columns], fontsize=8.5)
        for y, row in enumerate(shares):
            for x, value in enumerate(row):
                colour = "white" if value > 0.6 * top else "black"
                axis.text(x, y, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=8.5)
    elif count <= 120:
        names = [name.replace("_", " ") for name in columns]
        axis.set_xticks(range(count), names, rotation=90, fontsize=8 if count <= 68 else 6.5)
    else:
        axis.set_xlabel(f"{count} classes in label order")
    axis.tick_params(length=0)
    axis.set_title(words, fontsize=10.5)
    figure.colorbar(image, ax=axis, label="mean routing weight", pad=0.015)
    return save(figure, path)


def routing_of(results: Results, setting: Setting) -> list[dict]:
    """The routing records of a setting's runs on the split that counts; only those with the first one's experts."""
    records = [run.routing[results.split] for run in results.of(setting) if results.split in run.routing]
    return [record for record in records if record["experts"] == records[0]["experts"]]


def routing_by_class(results: Results, setting: Setting, path: Path) -> Path | None:
    """Heat map experts x classes of one setting, mean over seeds (None: nothing is recorded).

    Experts with the same template are comparable across seeds: expert g starts from group g's first template.
    """
    records = [record for record in routing_of(results, setting) if record.get("by_class")]
    if not records:
        return None
    by_class = mean_rows([record["by_class"] for record in records])  # [classes, experts]
    names = records[0].get("classnames") or [str(label) for label in range(len(by_class))]
    shares = [list(row) for row in zip(*by_class, strict=True)]
    half = {BASE: "base classes", NEW: "new classes"}.get(setting.place.part, "classes")
    what = f"{half} of {setting.place.dataset}"
    seeds = f"mean over {len(records)} seeds" if len(records) > 1 else "one seed"
    words = f"{setting.method} ({setting.config}) on the {what}, {seeds}"
    return heat_map(shares, records[0]["experts"], names, path, words)


def routing_by_dataset(results: Results, settings: Sequence[tuple[str, Setting]], path: Path) -> Path | None:
    """Heat map experts x data sets (or halves, or styles), mean over seeds.

    Args:
        results: the runs.
        settings: (label of the column, setting); all of one method and config. Those without records or with other
            experts than the first are left out.
        path: of the file (.png, .pdf, .svg).

    Returns:
        The path; None if nothing is recorded.
    """
    found = [(name, routing_of(results, setting)) for name, setting in settings]
    found = [(name, records) for name, records in found if records]
    found = [(name, records) for name, records in found if records[0]["experts"] == found[0][1][0]["experts"]]
    if not found:
        return None
    shares = [mean_rows([[record["share"]] for record in records])[0] for _, records in found]
    words = f"{settings[0][1].method} ({settings[0][1].config}), mean over seeds"
    columns = [name for name, _ in found]
    return heat_map([list(row) for row in zip(*shares, strict=True)], found[0][1][0]["experts"], columns, path, words)


def draw_routing(results: Results, folder: Path, suffix: str = "png") -> list[Path]:
    """All heat maps: experts x classes for base and new classes, experts x data sets for each source's transfers."""
    routed = {run.setting for run in results.runs if results.split in run.routing}
    drawn = []
    mains = {}
    for setting in sorted(routed):
        mains.setdefault((setting.place, setting.method), set()).add(setting.config)
    chosen = [s for s in sorted(routed) if s.config == main_config(mains[s.place, s.method])]
    for setting in chosen:
        place = setting.place
        if place.protocol in ("base2new", "source"):
            half = {BASE: "base", NEW: "new", "": "all"}[place.part]
            name = f"routing_{setting.method}_{place.dataset}_{place.shots}shots_{half}.{suffix}"
            drawn.append(routing_by_class(results, setting, folder / name))
    for source, shots, method, config in sorted(
        {(s.place.part, s.place.shots, s.method, s.config) for s in chosen if s.place.protocol in PROTOCOLS[2:]}
    ):
        own = [Place("source", "", source, shots)]
        own += sorted(
            {
                s.place
                for s in chosen
                if s.place.protocol in PROTOCOLS[2:] and (s.place.part, s.place.shots) == (source, shots)
            }
        )
        labels = [(place.dataset, Setting(place, method, config)) for place in own]
        drawn.append(
            routing_by_dataset(results, labels, folder / f"routing_{method}_{source}_{shots}shots_datasets.{suffix}")
        )
    return [path for path in drawn if path]


def draw_all(
    results: Results,
    folder: str | Path,
    tables: Sequence[Table] | None = None,
    interval: bool = False,
    suffix: str = "png",
) -> list[Path]:
    """Every figure that the results allow.

    Args:
        results: the runs.
        folder: for the files.
        tables: to draw (None: all).
        interval: bands and whiskers are 95% intervals instead of population stds.
        suffix: "png", "pdf" or "svg".

    Returns:
        The files.

    Raises:
        ImportError: matplotlib is not installed.
    """
    folder, drawn = Path(folder), []
    tables = [t for p in PROTOCOLS for t in tables_of(results, p)] if tables is None else tables
    new_figure(1, 1)  # fails before anything is written
    for table in tables:
        if not any(any(row.cells) for row in table.rows if not row.published):
            continue
        if table.protocol == "base2new" and any(row.cells[2] for row in main_rows(table)):
            drawn.append(base_new_scatter(table, folder / f"base2new_scatter.{suffix}"))
            drawn.append(h_bars(table, folder / f"base2new_h.{suffix}", interval))
        elif table.protocol == "fewshot":
            drawn.append(fewshot_curves(table, folder / f"fewshot_curves.{suffix}", interval))
        elif table.protocol in PROTOCOLS[2:]:
            source = table.columns[0].removesuffix(" (source)")
            drawn.append(transfer_bars(table, folder / f"{table.protocol}_{source}.{suffix}", interval))
    return drawn + draw_routing(results, folder, suffix)
