"""How images are made, whatever the plan (``settings``), and making them (``images``, which imports torch)."""
