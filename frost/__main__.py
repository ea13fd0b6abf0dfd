"""`frost`, and `python -m frost`: the command line of `frost.cli`."""

import signal


def main() -> None:
    """Entry point. Ctrl-C while libraries are loaded, which takes a moment, is no traceback."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from frost.cli import main as run_command

    run_command()


if __name__ == "__main__":
    main()
