"""Names of what a study keeps: files in its folder, its Optuna study, and the attribute that tells workers about it."""

STUDY_NAME = "postdiff"
DATABASE, SCORES, HELD_OUT = "study.db", "scores.jsonl", "held_out.jsonl"
#: The database that the worker processes of one host share.
SHARED_DATABASE = "workers.db"
#: What a database that lost tables is kept as.
DAMAGED_DATABASE = "study.damaged.db"
#: The baseline's scores of some calibration prompts with other seeds.
OTHER_SEEDS = "other_seeds.jsonl"
#: Folder of the baseline's images, and what their names look like.
BASELINE, BASELINE_FILES = "baseline", "*-????????????????.png"
RECORD_ATTRIBUTE = "record"
