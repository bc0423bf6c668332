"""Services for a process: logs, metrics, process guard, embedded Redis, loading of objects."""
