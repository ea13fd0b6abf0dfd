"""The stages of dvc.yaml, one script each; on several processes where torchrun's own variables ask for them."""

import signal
import sys

# `python -m stages.x` imports this file first, when sys.argv[0] is still "-m" and x has not imported torch yet.
if sys.argv[0] == "-m" and (module := sys.orig_argv[-len(sys.argv)]).startswith("stages."):
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C in the next lines ends it without a traceback
    try:
        from frost.pipeline.launch import begin
    except ModuleNotFoundError as error:
        sys.exit(f"{sys.executable}: {error}; Frost is installed in .venv: `source .venv/bin/activate` first")

    begin(module.removeprefix("stages."))
