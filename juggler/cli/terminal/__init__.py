"""The interactive client: typed lines become requests on one of several connections, messages become lines shown.

- `grammar`, `completion` and `lines` are pure: they parse, complete and format.
- `screen` is the only user of the prompt library; `history` keeps typed lines in a file.
- `client_connection` and `connections` hold the clients.
- `actions` runs each command, `shell` is the loop.
"""
