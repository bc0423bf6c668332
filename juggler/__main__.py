"""``python -m juggler``: the command ``juggler``."""

from juggler.cli.entry import juggler

if __name__ == "__main__":
    juggler()
