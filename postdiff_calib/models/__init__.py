"""Models as data (cards), loading of stock pipelines, and the embedded model."""
