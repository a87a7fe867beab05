"""Files that are wrong in one way each: profiles, studies, score lines, latency tables, prompt sets."""

import copy
import json
import os
from pathlib import Path

import yaml
from profiles import profile_data
from studies import make_study

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


def _at(data, path, value):
    """A copy of plain data with one value replaced; ``path`` is dotted."""
    data = copy.deepcopy(data)
    *parts, last = [int(p) if p.isdigit() else p for p in path.split(".")]
    inner = data
    for part in parts:
        inner = inner[part]
    inner[last] = value
    return data


def profiles():
    """Name → text or bytes of files that are no profile."""
    good = profile_data()
    text = yaml.safe_dump(good, sort_keys=False)
    changed = {
        "schema0": ("schema_version", 0),
        "schema5": ("schema_version", 5),
        "schema_text": ("schema_version", "two"),
        "schema_true": ("schema_version", True),
        "guidance_inf": ("model.guidance_scale", float("inf")),
        "guidance_negative": ("model.guidance_scale", -1.0),
        "mean_nan": ("expected.difference.mean", float("nan")),
        "limit_inf": ("budget.limit", float("inf")),
        "height_million": ("model.height", 1_000_000),
        "steps_text": ("knobs.num_inference_steps", "20"),
        "steps_long": ("knobs.num_inference_steps", 1 << 70),
        "scale_high": ("knobs.low_res_scale", 1.5),
        "notes_number": ("model.notes", 5),
        "date": ("model.revision", "DATE"),
    }
    texts = {name: yaml.safe_dump(_at(good, *change), sort_keys=False) for name, change in changed.items()}
    texts["date"] = texts["date"].replace("DATE", "2001-01-01")
    texts |= {
        "empty": "",
        "list": "- a\n- b\n",
        "words": "just words",
        "open": "a: [",
        "binary": b"\xff\xfe\x00\x81",
        "latin1": "a: 1\nb: caf\xe9\n".encode("latin-1"),
        "bomb": BOMB,
        "anchor": text.replace("schema_version: 4", "schema_version: &v 4"),
        "merge": "<<: {a: 1}\n" + text,
        "twice": text + "model: {}\n",
        "twice_json": '{"schema_version": 2, "schema_version": 2}',
        "number_key": text + "7: 1\n",
        "deep": "a: " + "[" * 400 + "]" * 400,
        "deep_json": '{"a": ' + "[" * 90_000 + "]" * 90_000 + "}",
        "digits": "schema_version: " + "9" * 5000,
        "digits_json": '{"schema_version": ' + "9" * 5000 + "}",
        "hex": "schema_version: 0x" + "f" * 5000,
        "nan_json": '{"schema_version": NaN}',
        "object": "!!python/object/apply:os.system ['true']",
        "documents": text + "---\n" + text,
        "escape": text + '"\\e[31mred\\e[0m": 1\n',
        "surrogate": json.dumps(good).replace('"shapes"', '"\\ud800"'),
        "unknown": text.replace("cache_interval:", "cache_intervall:"),
        "missing": text.replace("  seed: 0\n", ""),
        "plan": text.replace("cache_interval: 2", "cache_interval: 3"),
        "large": b"a: 1\n" * 6_000_000,
        "control": "a: \x1b[31m\n",
    }
    return texts


def records(good):
    """Name → text of files that are no study's record; ``good`` is a record's data."""
    changed = {
        "version": ("record_version", 2),
        "budget": ("asked.budget", "fast"),
        "budget_number": ("asked.budget", 5),
        "seed": ("asked.seed", -3),
        "seed_text": ("asked.seed", "0"),
        "noise": ("settings.noise", "loud"),
        "delta": ("asked.delta", "clip=1"),
        "guards": ("asked.guards", ["fid=3"]),
        "batch": ("settings.batch_size", 0),
        "steps": ("num_inference_steps", 0),
        "steps_list": ("num_inference_steps", [20]),
        "model": ("model", []),
        "height": ("model.height", "64"),
        "evidence": ("evidence", None),
        "environment": ("environment.versions", {"torch": 2}),
        "calibration": ("calibration", "prompts"),
        "held_out": ("held_out", [1, 2]),
        "trials": ("trials", "many"),
        "failed": ("failed", [["one"]]),
        "objective": ("objective", [{"metric": "clip"}]),
        "spread": ("objective.0.spread", 0.0),
        "term": ("objective.0.more", 1),
        "searched": ("searched", 7),
        "limit": ("searched.0.limit", ["macs"]),
        "finalists": ("searched.0.finalists", [1]),
        "unfound": ("searched.0.unfound", "none"),
        "fits": ("searched.0.fits", [True]),
        "cost": ("cost", 5),
        "cost_steps": ("cost.steps", {}),
        "cost_macs": ("cost.steps.0.macs.conv", "many"),
        "cost_latent": ("cost.latent", [16]),
        "cost_nan": ("cost.latency.switch", "x"),
        "cost_count": ("cost.steps.0.seconds.median", -1.0),
    }
    texts = {name: json.dumps(_at(good, *change)) for name, change in changed.items()}
    missing = {key: value for key, value in good.items() if key != "asked"}
    texts |= {
        "no_asked": json.dumps(missing),
        "list": "[]",
        "null": "null",
        "empty": "",
        "half": json.dumps(good)[:700],
        "deep": "[" * 90_000,
        "digits": '{"record_version": ' + "9" * 5000 + "}",
        "nan": '{"record_version": NaN}',
        "binary": b"\xff\xfe",
    }
    return texts


#: Name → what is changed in a block of scores, as (key, value).
BLOCKS = {
    "plan": ("plan", 5),
    "knobs": ("knobs", {"steps": 5}),
    "knobs_text": ("knobs", "T=5"),
    "prompts": ("prompts", ["0"]),
    "prompts_negative": ("prompts", [-1]),
    "prompts_range": ("prompts", [10_000]),
    "scores": ("scores", ["high"]),
    "scores_none": ("scores", None),
    "scores_more": ("scores", [1.0, 2.0]),
    "scores_nan": ("scores", [float("nan")]),
    "measures": ("measures", [1]),
    "measures_text": ("measures", {"ssim": ["x"]}),
    "features": ("features", "***"),
    "features_short": ("features", "AAAA"),
    "aside": ("set_aside", {"first": "black"}),
}


def tables(good):
    """Name → text of files that are no latency table; ``good`` is one's data."""
    changed = {
        "version": ("table_version", 9),
        "model": ("model", 5),
        "height": ("height", -64),
        "latent": ("latent", [16]),
        "guides": ("guides", "yes"),
        "steps": ("steps", 5),
        "key": ("steps.0.step.height", "16"),
        "macs": ("steps.0.macs.conv", -1),
        "seconds": ("steps.0.seconds.median", "fast"),
        "negative": ("steps.0.seconds.median", -1.0),
        "batch": ("latency.batch_size", 0),
        "scale": ("latency.scale", 0),
        "environment": ("latency.environment", []),
        "network": ("network", []),
        "text": ("text_length", None),
    }
    texts = {name: json.dumps(_at(good, *change)) for name, change in changed.items()}
    return texts | {
        "list": "[]",
        "empty": "",
        "inf": '{"table_version": Infinity}',
        "deep": "[" * 90_000,
        "digits": '{"table_version": ' + "9" * 5000 + "}",
        "binary": b"\x00\xff\xfe",
    }


#: Name with its ending → text or bytes of files that are no prompt set.
PROMPTS: dict[str, str | bytes] = {
    "empty.txt": "\n\n",
    "latin.txt": "a cat\na caf\xe9\n".encode("latin-1"),
    "ending.doc": "a cat\n",
    "bare": "a cat\n",
    "words.jsonl": "a cat\n",
    "list.jsonl": "[1]\n",
    "number.jsonl": '{"prompt": 5}\n',
    "split.jsonl": '{"prompt": "a", "split": "test"}\n',
    "digits.jsonl": '{"prompt": "a"}\n' + "9" * 5000 + "\n",
    "deep.jsonl": '{"prompt": ' + "[" * 90_000 + "\n",
    "half.jsonl": '{"prompt": "a \\ud800 cat"}\n',
    "latin.jsonl": b'{"prompt": "a"}\n{"prompt": "caf\xe9"}\n',
    "columns.csv": "id,\x1b[31mname\n1,a\n",
    "short.csv": "id,prompt\n1\n",
    "quote.csv": 'prompt\n"a cat\n',
    "latin.csv": b"prompt\ncaf\xe9\n",
    "columns.tsv": "id\tname\n1\ta cat\n",
    "short.tsv": "Category\tPrompt\nAnimals\n",
    "latin.tsv": b"Prompt\ncaf\xe9\n",
    "half_category.jsonl": '{"prompt": "a cat", "category": "\\ud800"}\n',
    "words.json": "a cat",
    "object.json": '{"images": []}',
    "number.json": "[5]",
    "ids.json": '{"annotations": [{"image_id": [1], "caption": "a"}]}',
    "ids_object.json": '{"annotations": [{"image_id": {}, "caption": "a"}]}',
    "caption.json": '{"annotations": [{"image_id": 1, "caption": null}]}',
    "digits.json": '{"annotations": [{"image_id": ' + "9" * 5000 + ', "caption": "a"}]}',
    "deep.json": "[" * 90_000,
    "latin.json": b'["caf\xe9"]',
    "half.json": '["\\udfff"]',
    "words.parquet": "a cat",
}


def write(folder: Path) -> None:
    """Fill a folder with all of them, and with what is right beside it."""

    def put(path, content):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    good = make_study(folder / "study").record.as_dict()
    put(folder / "good.yaml", yaml.safe_dump(profile_data(), sort_keys=False))
    put(folder / "good.tsv", "Prompt\tKind\tKind\n" + "".join(f"a photo of cat {i}\tcat\t\n" for i in range(40)))
    put(folder / "good.txt", "".join(f"a photo of cat {i}\n" for i in range(40)))
    put(folder / "table.json", json.dumps(good["cost"]))
    for name in ("WanPipeline", "FluxImg2ImgPipeline", "NoSuchPipeline"):
        put(folder / f"{name}-model" / "model_index.json", json.dumps({"_class_name": name}))
    put(folder / "file", "")
    index = {"_class_name": "StableDiffusionPipeline", "scheduler": ["diffusers", "DDIMScheduler"]}
    put(folder / "model" / "model_index.json", json.dumps(index))
    (folder / "folder").mkdir()
    os.mkfifo(folder / "fifo")
    (folder / "link.yaml").symlink_to("folder")
    (folder / "loop.yaml").symlink_to("loop.yaml")
    for name, content in profiles().items():
        put(folder / "profiles" / f"{name}.yaml", content)
    for name, content in records(good).items():
        put(folder / "records" / name / "study.json", content)
    for name, content in tables(good["cost"]).items():
        put(folder / "tables" / f"{name}.json", content)
    for name, content in PROMPTS.items():
        put(folder / "prompts" / name, content)
    block = json.loads((folder / "study" / "scores.jsonl").read_text().splitlines()[1])
    block |= {"prompts": block["prompts"][:1], "scores": block["scores"][:1]}
    for name, (key, value) in BLOCKS.items():
        copy_of = folder / "blocks" / name
        put(copy_of / "study.json", json.dumps(good))
        put(copy_of / "scores.jsonl", json.dumps(block) + "\n" + json.dumps({**block, key: value}) + "\n")
    put(folder / "blocks" / "deep" / "study.json", json.dumps(good))
    put(folder / "blocks" / "deep" / "scores.jsonl", "[" * 90_000 + "\n")
