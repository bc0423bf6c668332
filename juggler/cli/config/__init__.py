"""Settings of a server: from a TOML file, the environment and flags, and what is built from them."""
