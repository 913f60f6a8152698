"""Averages that others published, to be shown beside ours and always marked as published. None was measured here.

The only place where numbers of others are written down. They are those that the methods' repositories state; there is
none for few-shot, cross-dataset and domain generalization, and none for MoCoOp.
"""

from dataclasses import dataclass

from .tables import Cell, Row, Table

GROUP = "published average of 11"
CONFIG = "ViT-B/16"


@dataclass(frozen=True)
class Published:
    """One published row: base-to-new, average over the 11 data sets of the benchmark, 16 shots, 3 seeds, in percent.

    Attributes:
        method: as in the publication.
        trainer: our trainer of that method, None if we have none.
        base, new, h: accuracies and their harmonic mean, as printed.
        source: where the numbers stand.
    """

    method: str
    trainer: str | None
    base: float
    new: float
    h: float
    source: str


BOTH = "MaPLe README, PromptSRC README"
BASE2NEW = (
    Published("CLIP", "ZeroshotCLIP", 69.34, 74.22, 71.70, BOTH),
    Published("CoOp", "CoOp", 82.69, 63.22, 71.66, BOTH),
    Published("CoCoOp", "CoCoOp", 80.47, 71.69, 75.83, BOTH),
    # PromptSRC's README prints 75.83 as ProDA's new accuracy, which contradicts its H; its project page was corrected.
    Published("ProDA", None, 81.56, 72.30, 76.65, "PromptSRC project page"),
    Published("LASP", "LASP", 82.96, 76.64, 79.67, "LASP README (code release)"),
    Published("KgCoOp", "KgCoOp", 80.73, 73.60, 77.00, "KgCoOp README"),
    Published("MaPLe", None, 82.28, 75.14, 78.55, BOTH),
    Published("PromptSRC", None, 84.26, 76.10, 79.97, "PromptSRC README"),
)


def add_published(table: Table) -> None:
    """Append the published rows to a base-to-new table; tables of other protocols get a note that there are none."""
    if table.protocol != "base2new":
        table.notes.append("published averages of this protocol: none stated in the methods' repositories")
        return
    for entry in BASE2NEW:
        cells = tuple(Cell(value, {}) for value in (entry.base, entry.new, entry.h))
        table.rows.append(Row((GROUP, "16"), entry.method, CONFIG, cells, average=True, published=True))
    sources = "; ".join(f"{entry.method}: {entry.source}" for entry in BASE2NEW)
    table.notes.append(
        f"rows with seeds 'published' are other people's numbers on the 11 data sets of the benchmark ({sources})"
    )
