"""The search: which plan to score next, and which are judged in the end.

``space`` lists the plans, ``surrogate`` and ``adjust`` are the model of what was scored, ``keeping`` knows the guards,
``strategy`` proposes and chooses finalists, ``unfound`` says what may have been missed. ``backend`` runs it on Optuna.
"""
