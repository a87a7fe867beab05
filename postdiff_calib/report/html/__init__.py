"""The report of a study as one HTML page that needs nothing else: no network, no library, no other file."""
