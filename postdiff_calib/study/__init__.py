"""A study read back: its record, what it concludes, and step reduction or cheaper steps at every budget."""
