"""What rows are called in the report: titles, anchors, file names; and the mark of synthetic data on them all."""

import re
from collections.abc import Sequence

from harness.grid.runs import RowRuns
from harness.report.results import dataset


class Names:
    """Names that are fit for a file and an address, one for each row and no two alike."""

    def __init__(self, rows: Sequence[RowRuns], *, synthetic: bool) -> None:
        self.synthetic = synthetic
        self._slugs: dict[str, str] = {}
        taken: set[str] = set()
        for row in rows:
            plain = re.sub(r"[^a-z0-9.]+", "-", row.row.name.lower()).strip("-.") or "row"
            slug, number = plain, 2
            while slug in taken:
                slug, number = f"{plain}-{number}", number + 1
            taken.add(slug)
            self._slugs[row.row.name] = slug

    def slug(self, row: RowRuns) -> str:
        """Of the row's heading and picture; no others of the report begin with `row-`."""
        return f"row-{self._slugs[row.row.name]}"

    def title(self, row: RowRuns) -> str:
        """The row's heading, with a mark if its images are synthetic."""
        title = row.row.title.strip() or row.row.name
        return f"{title} (synthetic)" if dataset(row) == "synthetic" or self.synthetic else title

    def marked(self, title: str) -> str:
        """A title over several rows."""
        return f"{title} (synthetic)" if self.synthetic else title
