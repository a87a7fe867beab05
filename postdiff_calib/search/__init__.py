"""The search: which plan is best under a budget, and how sure that is.

``space`` holds the only ranges, ``evaluate`` the paired per-prompt scores, ``surrogate`` and ``sampler`` decide what to
try next, ``racing`` when to stop, ``study`` runs it all on Optuna, and ``select`` reads the answer off the scores.
"""
