"""Load shapes, one a file, to be given to locust beside the locustfile: it takes the first that it finds."""
