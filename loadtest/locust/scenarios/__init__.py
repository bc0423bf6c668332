"""Scenarios, one a file: user classes whose tasks have the tag of the scenario."""
