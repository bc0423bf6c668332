"""Settings of ``juggler server``: `schema` declares them, `load` reads them, `build` makes a server from them."""
