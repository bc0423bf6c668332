"""The short name of `juggler.callee.cli`."""

from juggler.callee.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
