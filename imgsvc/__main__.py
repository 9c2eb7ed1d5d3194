"""`python -m imgsvc`, and the `imgsvc` command."""

from __future__ import annotations


def main() -> None:
    # Not at the top: each worker process imports the main module again, and is to stay small.
    from imgsvc.cli import main as command_line  # noqa: PLC0415

    command_line()


if __name__ == "__main__":
    main()
