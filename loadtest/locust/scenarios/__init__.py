"""Scenarios, one a file. Each is a set of locust users; their tasks have the tag of the scenario."""
