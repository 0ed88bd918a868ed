"""The environment here: installed packages against their own lists of files, and code that Python runs at its start."""

from __future__ import annotations

from rfdetr_core.base.environment import edited_files, packages_without_list, startup_code, unexpected_startup
from rfdetr_core.verification.report import Report


def check_environment(report: Report, *, deep: bool) -> None:
    """Compare files of installed packages with the lists that were installed with them; deep: each by its content.

    Whoever changes a file, its time and the list leaves no mismatch: the wheel itself is not here to compare with.
    """
    report.checked += 1
    for package, names in edited_files(deep=deep).items():
        for name in names:
            report.wrong(f"{name} of package {package}", "as it was installed", "another", "the package's RECORD")
    for package in packages_without_list():
        report.skip(f"files of package {package}", "it has no list of its files (RECORD)")
    for path in unexpected_startup(startup_code()):
        report.note(f"Python runs {path} at its start, which no package installed")
