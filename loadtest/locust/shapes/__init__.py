"""Load shapes, one a file: pass one to locust beside the locustfile, as it uses the first that it finds."""
