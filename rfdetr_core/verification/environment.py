"""A check of the installed packages and of the code that Python runs when it starts."""

from __future__ import annotations

from rfdetr_core.base.environment import edited_files, packages_without_list, startup_code, unexpected_startup
from rfdetr_core.verification.report import Report


def check_environment(report: Report, *, deep: bool) -> None:
    """Compare the files of installed packages with their installed file lists (RECORD). deep: compare the content, too.

    Limit: nothing is reported if a file, its time and the list were changed together, because the original wheel is not
    available for comparison.
    """
    report.checked += 1
    for package, names in edited_files(deep=deep).items():
        for name in names:
            report.wrong(
                f"{name} of package {package}", "the file as it was installed", "a changed file", "the package's RECORD"
            )
    for package in packages_without_list():
        report.skip(f"files of package {package}", "it has no list of its files (RECORD)")
    for path in unexpected_startup(startup_code()):
        report.note(f"Python runs {path} when it starts, but no package installed this file")
