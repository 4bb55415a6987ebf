"""Runs one function of ours in a fresh process and brings its result, or its error, back.

Peak memory is only telling in a process that does nothing else, and an export must not leave its threads and its
gigabytes in the process that measures.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

from adapter_infer import errors
from adapter_infer.errors import AdapterError


def call(target: str, **arguments: Any) -> Any:
    """`target` is "module:function"; arguments and result are JSON data.

    Errors: the AdapterError that the function raised; AdapterError where a signal ended the process.
    """
    with tempfile.TemporaryDirectory(prefix="adapter-bench-") as folder:
        answer = Path(folder) / "answer.json"
        request = json.dumps({"target": target, "arguments": arguments, "answer": str(answer)})
        # The child sees the modules that this process sees, also those found through a changed sys.path.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        process = subprocess.run(
            [sys.executable, "-m", __name__],
            input=request,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            check=False,
        )
        if not answer.exists():
            raise _death(target, process.returncode, process.stderr)
        reply = json.loads(answer.read_text())
    if "error" in reply:
        raise getattr(errors, reply["error"])(reply["message"])
    return reply["result"]


def _death(target: str, code: int, complaint: str) -> Exception:
    """A signal is the machine's doing, and the user's to mend; a traceback is a bug of ours and is shown whole."""
    if code < 0:
        hint = "; if memory ran out, ask for a smaller --size or --batch" if code == -9 else ""
        return AdapterError(f"the process that ran {target} was ended by signal {-code}{hint}")
    return RuntimeError(f"the process that ran {target} failed with exit code {code}:\n{complaint}")


def _end_with_parent() -> None:
    """However the parent ends, a measurement that nobody waits for any more must not go on in the background."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _serve() -> None:
    _end_with_parent()
    request = json.load(sys.stdin)
    module, function = request["target"].split(":")
    reply: dict[str, Any]
    try:
        reply = {"result": getattr(import_module(module), function)(**request["arguments"])}
    except AdapterError as error:
        kind = next(cls for cls in type(error).__mro__ if cls.__module__ == errors.__name__)
        reply = {"error": kind.__name__, "message": str(error)}
    Path(request["answer"]).write_text(json.dumps(reply))


if __name__ == "__main__":
    _serve()
