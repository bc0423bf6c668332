"""``python -m callee``: the command ``juggler-callee``."""

from juggler.callee.cli import main

if __name__ == "__main__":
    main()
