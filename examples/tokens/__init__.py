"""A text that grows word by word in a web page, from a blocking generator. Run it with ``make tokens``."""
