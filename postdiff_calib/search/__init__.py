"""The search: which plan is best under a budget, and how sure that is.

``space`` holds the only ranges, ``objective`` what is improved, ``evaluate`` the paired per-prompt scores.
``surrogate`` and ``strategy`` decide what to try next, ``study`` runs it all on Optuna; ``compare``, ``rows`` and
``answers`` read the answer off the finalists' scores.
"""
