"""``python -m juggler``: the command ``juggler``."""

from juggler.cli.main import main

if __name__ == "__main__":
    main()
