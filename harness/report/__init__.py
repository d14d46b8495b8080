"""The report: from the runs of a grid to README.md, a self-contained index.html and figures/, without any training.

`render` writes it; its prose is in templates/. `results` reads metrics off runs, `statistics` compares them,
`conclusions` and `inside` choose what is said and shown, `figures` and `charts` draw it. `seeds` is for TensorBoard.
"""

from harness.report.render import check_folder, write_report

__all__ = ["check_folder", "write_report"]
