"""Results as tables and images."""
