"""The stages of dvc.yaml, one script each; on several processes where torchrun's own variables ask for them."""

import sys

# `python -m stages.x` imports this file first, when sys.argv[0] is still "-m" and x has not imported torch yet.
if sys.argv[0] == "-m" and (module := sys.orig_argv[-len(sys.argv)]).startswith("stages."):
    try:
        from frost.pipeline.launch import spread_over_processes
    except ModuleNotFoundError as error:
        sys.exit(f"{sys.executable}: {error}; Frost is installed in .venv: `source .venv/bin/activate` first")

    spread_over_processes(module.removeprefix("stages."))
