"""Runs commands, each in a fork of a process that has loaded all libraries, with faults in what they write.

    LD_PRELOAD=faults.so python faulty.py [export]

In: a line of JSON on standard input for each run. Out: a line of JSON with how it ended. See `faults.Forks`.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from itertools import count
from typing import Any, NoReturn

LIBRARIES = ("huggingface_hub", "onnxruntime", "pyarrow.csv", "pyarrow.parquet", "rich.progress", "tokenizers")
EXPORTER = ("onnx_ir", "torch", "rfprm_export.pipeline", "rfprm_export.hub", "rfprm_export.evaluation")

RECORD = 199
"""The file descriptor of all calls that change a file, and of the rows that the ledger says it has recorded."""
armed: list[bool] = []
"""Holds something while a command runs whose calls are recorded."""


def load(*, export: bool) -> dict[str, Callable[[list[str]], None]]:
    """The commands, with all that they import."""
    for library in (*LIBRARIES, *(EXPORTER if export else ())):
        importlib.import_module(library)
    from rfprm_lite.cli import main
    from rfprm_lite.data import filtering
    from rfprm_lite.data.ledger import Ledger

    filtering.RECORDED_TOGETHER, filtering.ROWS_AHEAD = 3, 8  # more batches of fewer rows
    share_the_demo_model()
    add = Ledger.add

    def recorded(self: Ledger, scores: Any) -> None:
        add(self, scores)
        if armed:
            os.write(RECORD, b"recorded\t%s\t\t0\t0\n" % b",".join(b"%d" % row for row, _, _ in scores))

    Ledger.add = recorded  # type: ignore[method-assign]
    commands = {"rfprm": main}
    if export:
        commands["rfprm-export"] = exporter()
    gc.collect()
    gc.freeze()  # what is loaded stays, and no fork looks through it
    return commands


def share_the_demo_model() -> None:
    """Forks use the model that is loaded here. It has one thread, and has computed all that they ask for."""
    from rfprm_lite import PRM

    load, prm = PRM.load, PRM.from_pretrained("demo", threads=1)
    os.register_at_fork(after_in_child=lambda: setattr(prm._scorer, "_process", os.getpid()))
    PRM.load = staticmethod(lambda model, options: prm if model == "demo" else load(model, options))  # type: ignore[method-assign]


def exporter() -> Any:
    """The exporter's command; its clock says the same at every run, so that bundles are equal to the byte."""
    import torch

    from rfprm_export.cli import main
    from rfprm_export.parity import measure

    torch.set_num_threads(1)
    clock = count()
    measure.time = type("Clock", (), {"perf_counter": staticmethod(lambda: float(next(clock)))})  # type: ignore[attr-defined]
    return main


def serve(commands: dict[str, Any]) -> None:
    asked, answers = os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w")
    shim = ctypes.CDLL(None)
    for line in iter(asked.readline, ""):
        request = json.loads(line)
        if request["here"]:
            code = run(commands, shim, request)
        elif child := os.fork():
            _, status = os.waitpid(child, 0)
            code = os.waitstatus_to_exitcode(status)
        else:
            end(run(commands, shim, request))
        answers.write(json.dumps(code) + "\n")
        answers.flush()


def run(commands: dict[str, Any], shim: ctypes.CDLL, request: dict[str, Any]) -> int:
    """Run a command; returns its exit code."""
    os.chdir(request["folder"])
    making = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    os.dup2(os.open(request["input"], os.O_RDONLY), 0)
    os.dup2(os.open(request["output"], making), 1)
    os.dup2(os.open(request["errors"], making), 2)
    os.dup2(os.open(request["record"], making), RECORD)
    shim.faults_arm(request["folder"].encode(), request["at"], request["what"], request["error"], RECORD)
    armed.append(True)
    try:
        commands[request["command"]](request["arguments"])
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    except BaseException:  # noqa: BLE001  # as Python itself ends
        traceback.print_exc()
        return 1
    finally:
        if request["here"]:
            sys.stdout.flush()
            shim.faults_arm(b"", -1, 0, 0, -1)
            armed.clear()
    return 0


def end(code: int) -> NoReturn:
    """End this process as Python does."""
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except OSError:
        traceback.print_exc()
        code = 120
    os._exit(code)


if __name__ == "__main__":
    serve(load(export="export" in sys.argv[1:]))
