"""Load generation for juggler."""
