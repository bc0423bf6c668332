"""What a process of juggler needs around its job: logs, metrics, guards, an embedded Redis, loading of objects."""
