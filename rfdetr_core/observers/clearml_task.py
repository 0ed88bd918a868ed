"""Run as a process of its own: ClearML forks, and takes over signals, exceptions and forks of the process it is in.

The first line of the input has the names and the params, each further one an epoch; its end is the end of the task.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main() -> None:
    """Answer "ready" or the reason why there is no task; then report what comes."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # ClearML prints
    settings = json.loads(sys.stdin.readline())
    try:
        from clearml import Task

        # Its setting sdk.development.report_use_subprocess, which no variable sets: forking with threads can hang it.
        setattr(Task, "_report_subprocess_enabled", False)  # noqa: B010 - typed as what reads the setting
        task: Any = Task.init(
            **settings["task"],
            reuse_last_task_id=False,
            auto_connect_arg_parser=False,
            auto_connect_frameworks=False,
            auto_connect_streams=False,
            auto_resource_monitoring=False,
        )
        task.set_parameters(settings["params"])
    except Exception as error:  # noqa: BLE001 - whatever it is, the trainer tells it
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
