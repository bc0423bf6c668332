"""The interactive client: what is typed becomes requests on one of several connections, what comes back becomes lines.

`grammar`, `completion` and `lines` are pure; `screen` alone knows the prompt library; `connection` and `connections`
hold the clients, `actions` says what each command does, `shell` reads and does.
"""
