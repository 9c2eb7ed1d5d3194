"""`python -m imgsvc`, and the `imgsvc` command."""

from __future__ import annotations

import sys


def main() -> None:
    try:
        # Not at the top: each worker process imports the main module again, and is to stay small.
        from imgsvc.cli import main as command_line  # noqa: PLC0415

        command_line()
    except KeyboardInterrupt:  # before the command has begun
        sys.exit(130)


if __name__ == "__main__":
    main()
