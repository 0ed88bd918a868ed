"""The process of a ClearML task. It is separate, since ClearML forks, and handles signals and exceptions itself.

The first line of stdin has the names and the params. Each following line is an epoch. The end of stdin ends the task.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main() -> None:
    """Print "ready", or why there is no task; then report each epoch from stdin."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # ClearML prints to stdout; this process answers there
    settings = json.loads(sys.stdin.readline())
    try:
        from clearml import Task

        # The setting sdk.development.report_use_subprocess has no environment variable. Forking with threads can hang.
        setattr(Task, "_report_subprocess_enabled", False)  # noqa: B010 - the attribute is typed as a function that reads the setting
        task: Any = Task.init(
            **settings["task"],
            reuse_last_task_id=False,
            auto_connect_arg_parser=False,
            auto_connect_frameworks=False,
            auto_connect_streams=False,
            auto_resource_monitoring=False,
        )
        task.set_parameters(settings["params"])
    except Exception as error:  # noqa: BLE001 - the trainer reports any error
        print(" ".join(str(error).split()), file=answer, flush=True)
        return
    print("ready", file=answer, flush=True)
    for line in sys.stdin:
        content = json.loads(line)
        if "failed" in content:
            task.mark_failed(status_reason=content["failed"])
        for key, value in content.get("row", {}).items():
            title, _, series = key.partition("/")
            task.get_logger().report_scalar(title, series, value, content["epoch"])
    task.close()


if __name__ == "__main__":
    main()
