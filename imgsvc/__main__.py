"""Entry point of `python -m imgsvc` and of the `imgsvc` command."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line."""
    try:
        # Not at the top: each worker process imports the main module again and must stay small.
        from imgsvc.cli import main as run_command_line  # noqa: PLC0415

        run_command_line()
    except KeyboardInterrupt:  # Ctrl-C while the modules are still being imported
        sys.exit(130)


if __name__ == "__main__":
    main()
