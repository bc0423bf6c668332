"""The command ``juggler``: one file per subcommand, imported when it is asked for."""
