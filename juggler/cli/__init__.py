"""The command ``juggler``: `main` imports the module ``NAME_command`` of a subcommand on demand."""
