"""A study read back: its record, what it concludes, and fewer or cheaper at every budget."""
