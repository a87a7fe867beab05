"""The search on Optuna: trials, storage and workers. Optuna is imported here alone."""
