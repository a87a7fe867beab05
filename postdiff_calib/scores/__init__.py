"""What plans scored: per-prompt values, paired statistics, guards, and the objective they add up to."""
