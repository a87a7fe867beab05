"""Wrong invocations and files: exit code 2, one line with what was given and what to do, nothing changed on disk."""

import os
import stat

import pytest
import wrong_files

from postdiff_calib.cli.main import main

LONG = "x" * 300
CAL = ["calibrate", "--quiet"]
SAMPLE = ["prompts", "sample", "--size", "10"]

#: (command line, what the line must name: the thing given, then words of the rule)
ROWS: list[tuple[list[str], tuple[str, ...]]] = [
    *(
        ([*CAL, "--budget", budget], (f"budget {budget!r}", "write such as"))
        for budget in (
            "fast", "", "-5%", "0%", "1,5s", "nan%", "inf s", "1e999s", "1e-400%", "60", "%", "1.2s macs", "2x x",
            "p95:60%macs", "p95:4GMACs", "１%", "1.2.3s", "0x10s",
        )
    ),
    ([*CAL, "--model", "sd99"], ("sd99", "no such card")),
    ([*CAL, "--model", ""], ("model ''", "no such card")),
    ([*CAL, "--model", LONG], ("xxx", "no such card")),
    ([*CAL, "--model", "a\x1b[31mb"], (r"a\x1b[31mb", "no such card")),
    ([*CAL, "--model", "sdxl-lcm"], ("sdxl-lcm", "no commit of latent-consistency/lcm-sdxl", "write sdxl-lcm@COMMIT")),
    ([*CAL, "--model", "sdxl-lcm", "--dry-run"], ("sdxl-lcm", "no commit of latent-consistency/lcm-sdxl")),
    ([*CAL, "--model", "sdxl-lcm@main"], ("sdxl-lcm@main", "40 digits of 0-9 and a-f")),
    ([*CAL, "--model", "owner/name"], ("owner/name", "no commit of owner/name", "owner/name@COMMIT or --revision")),
    # Of a scorer that is not there, or a model whose weights are not, nothing is said: the class is refused first.
    *(
        ([*command, "--model", f"{name}-model"], (f"pipeline class {name}", "postdiff runs StableDiffusionPipeline,"))
        for name in ("WanPipeline", "FluxImg2ImgPipeline", "NoSuchPipeline")
        for command in (
            CAL, [*CAL, "--dry-run"], ["judge", "--quiet", "--with", "k=2"], ["ablate", "--quiet", "--vary", "k=1,2"],
            ["compare-methods", "--quiet"], ["cost"],
        )
    ),
    ([*CAL, "--model", "owner/name@" + "0123456789" * 4], ("owner/name@0123", "(offline)", "hf download owner/name")),
    ([*CAL, "--model", "sd15", "--revision", "v1"], ("--revision v1", "40 digits of 0-9 and a-f")),
    ([*CAL, "--vae", "owner/vae"], ("--vae owner/vae", "no commit of owner/vae")),
    *(
        ([*command, "--model", model, *option], says)
        for model in ("shapes", "model")
        for command in (CAL, ["judge", "--quiet", "--with", "T=4"])
        for option, says in (
            (["--vae", "nothere"], ("--vae nothere", "no such folder")),
            (["--variant", "fp16"], ("--variant fp16", "no weights of that name")),
            (["--lora", "nothere"], ("--lora nothere", "cannot be read")),
        )
    ),
    ([*CAL, "--lora", "owner/lora"], ("--lora owner/lora", "no commit of owner/lora")),
    ([*CAL, "--scorer", "hpsv2:xswu/HPSv2@main"], ("hpsv2:xswu/HPSv2@main", "40 digits of 0-9 and a-f")),
    *(
        ([*command, "--quiet", "--model", "sd21"], ("model 'sd21'", "no commit of sd2-comm", "write sd21@COMMIT"))
        for command in (
            ["ablate", "--steps", "8"], ["compare-methods"], ["finetune", "--data", "a.txt"],
        )
    ),
    ([*CAL, "--noise", "loud"], ("loud", "complement, coupled or independent")),
    ([*CAL, "--switch", "jump"], ("jump", "renoise, expand, renoise-own-grid or expand-own-grid")),
    *(
        ([command, "--quiet", *more, "--switch", "jump"], ("jump", "renoise, expand, renoise-own-grid or expand-own"))
        for command, *more in (["ablate", "--steps", "8"], ["compare-methods"])
    ),
    ([*CAL, "--search", "grid"], ("grid", "searches are")),
    ([*CAL, "--sampler", "tpe"], ("--sampler tpe", "write --search tpe")),
    *(
        ([*CAL, option, text], (f"{option} {text}", rule))
        for option in ("--delta", "--weight")
        for text, rule in (
            ("nan", "above 0"), ("inf", "above 0"), ("-1", "above 0"), ("0", "above 0"), ("clip=", "NAME=NUMBER"),
            ("fid=1", "metrics of this study"),
        )
    ),
    ([*CAL, "--delta", "clip=1", "--delta", "1"], ("--delta 1", "given twice")),
    *(
        ([*CAL, "--guard", text], (f"--guard {text!r}", rule))
        for text, rule in (
            ("fid=20", "cmmd, ssim"), ("clip=0.3", "--max-drop"), ("ssim=0,8", "NAME=NUMBER"), ("ssim=2", "1 at most"),
            ("ssim=nan", "NAME=NUMBER"), ("ssim=0", "above 0"), ("ssim=1e999", "finite"), ("ssim", "NAME=NUMBER"),
        )
    ),
    ([*CAL, "--max-drop", "clip=-1"], ("clip=-1", "at least 0")),
    ([*CAL, "--max-drop", "clip=1e999"], ("clip=1e999", "finite")),
    ([*CAL, "--max-drop", "ssim=1"], ("ssim=1", "--guard")),
    ([*CAL, "--model", "sd15", "--max-drop", "scene=2"], ("scene", "sd15 is not measured by it")),
    ([*CAL, "--scorer", "nonsense"], ("--scorer nonsense", "no scorer")),
    ([*CAL, "--also", "imagereward"], ("--also imagereward", "process of its own")),
    ([*CAL, "--scorer", "a:b", "--guard", "cmmd=1"], ("--guard cmmd", "embeddings")),
    ([*CAL, "--scorer", "absent_module:b"], ("scorer absent_module:b", "cannot be imported")),
    ([*CAL, "--study", "study", "--also", "hpsv2"], ("study study", "now ['clip', 'scene', 'hpsv2']")),
    (["judge", "--with", LONG], ("--with xxx", "no profile, no knobs and no function")),
    (["judge", "--with", "k=0"], ("--with k=0", "1 to 1000")),
    (["judge", "--with", "none.yaml"], ("none.yaml",)),
    (["judge", "--with", "T=5", "--grid", "zz.yaml"], ("output zz.yaml", ".yaml is no image's", ".png, .jpg")),
    (["judge", "--with", "T=5", "--grid", "zz"], ("output zz", "a missing ending is no image's")),
    (["judge", "--with", "T=5", "--study", "file"], ("study folder file", "not a folder")),
    ([*CAL, "--num-prompts", "3"], ("--num-prompts 3", "10")),
    ([*CAL, "--num-prompts", "x"], ("--num-prompts x", "integer")),
    ([*CAL, "--trials", "-1"], ("--trials -1", "0")),
    ([*CAL, "--batch-size", "-1"], ("--batch-size -1", "0")),
    ([*CAL, "--steps", "1001"], ("--steps 1001", "1 to 1000")),
    ([*CAL, "--height", "63"], ("size 63×64", "multiples of 4")),
    ([*CAL, "--width", "-1"], ("--width -1", "0")),
    ([*CAL, "--guidance-scale", "-1"], ("--guidance-scale -1", "at least 0")),
    ([*CAL, "--guidance-scale", "nan"], ("--guidance-scale nan", "at least 0")),
    ([*CAL, "--scheduler", "PNDMScheduler"], ("--scheduler PNDMScheduler", "schedulers are DDIMScheduler")),
    ([*CAL, "--scheduler", "FlowMatchEulerDiscreteScheduler"], ("--scheduler FlowMatch", "not a model of flow")),
    ([*CAL, "--scheduler-config", "eta"], ("--scheduler-config eta", "KEY=VALUE")),
    ([*CAL, "--scheduler-config", "eta=1"], ("--scheduler-config eta=1", "DDIMScheduler takes")),
    ([*CAL, "--scheduler-config", "clip_sample=3"], ("--scheduler-config clip_sample=3", "true or false")),
    *(
        ([*command, "--model", "one.safetensors", "--variant", "fp16"], ("--variant fp16", "is one file, which has"))
        for command in (CAL, [*CAL, "--dry-run"], ["judge", "--quiet", "--with", "T=4"], ["cost"])
    ),
    # The scorer is looked for before the model's weights are.
    *(
        ([*command, "--quiet", "--model", "sd15"], ("scorer 'ViT-B-32", "neither in the Hugging Face cache"))
        for command in (["calibrate"], ["ablate", "--vary", "k=1,2"], ["compare-methods"], ["analyze", "redundancy"])
    ),
    ([*CAL, "--model", "flux-dev", "--negative-prompt", "x"], ("--negative-prompt 'x'", "no unconditional half")),
    ([*CAL, "--guidance-scale", "1", "--negative-prompt", "x"], ("--negative-prompt 'x'", "nothing at guidance 1")),
    ([*CAL, "--model", "lcm", "--negative-prompt", "x"], ("--negative-prompt 'x'", "no unconditional half")),
    ([*CAL, "--study", "study", "--steps", "30"], ("study study", "num_inference_steps was 20, now 30")),
    ([*CAL, "--study", "study", "--height", "32"], ("study study", "height was 64, now 32")),
    ([*CAL, "--fix", "k"], ("--fix k", "write such as k=1")),
    ([*CAL, "--fix", "q=1"], ("--fix q=1", "no knob 'q'")),
    ([*CAL, "--fix", "k=0"], ("--fix k=0", "1 to 1000")),
    ([*CAL, "--range", "T=9..8"], ("--range T=9..8", "lower end is above")),
    ([*CAL, "--range", "T=50..60"], ("--range T=50..60", "leaves nothing to search")),
    ([*CAL, "--values", "beta=0.5,x"], ("--values beta=0.5,x", "'x' is not a number")),
    ([*CAL, "--fix", "s=0.5", "--values", "beta=1"], ("--fix s=0.5 with --fix β=1", "leaves nothing to search")),
    ([*CAL, "--range", "T=15..20", "--budget", "4%"], ("budget of", "with --range T=15..20")),
    *(
        (["cost", "--model", "sd35-medium", "-m", ".5", "--cross-attention-cache", mode, *more],
         (f"cross_attention_cache='{mode}'", "has no cross-attention layers", "set cross_attention_cache='off'"))
        for mode in ("mean", "cond")
        for more in ([], ["--json"])
    ),
    (["cost", "--model", "flux-dev", "--cross-attention-cache", "mean"], ("cache=mean with flux-dev", "does nothing")),
    (["cost", "--steps", "2000"], ("--steps 2000", "1 to 1000")),
    (["cost", "--scheduler", "Euler"], ("--scheduler Euler", "schedulers are")),
    (["generate", "a", "--profile", "none.yaml", "--steps", "0x"], ("--steps 0x", "integer")),
    (["verify", "none.yaml", "--scheduler", "Euler"], ("--scheduler Euler", "schedulers are")),
    ([*CAL, "--seed", "-3"], ("--seed -3", "0")),
    ([*CAL, "--seed", str(2**64)], (f"--seed {2**64}", "9223372036854775807")),
    ([*CAL, "--seed", "1.5"], ("--seed 1.5", "integer")),
    ([*CAL, "--seed", str(2**32), "--search", "tpe"], (f"--seed {2**32}", "from 0 to 4294967295")),
    ([*CAL, "--out", "folder"], ("output folder", "is a folder")),
    ([*CAL, "--out", "."], ("output .", "is a folder")),
    ([*CAL, "--out", "link.yaml"], ("output link.yaml", "is a folder")),
    ([*CAL, "--out", "loop.yaml"], ("output loop.yaml", "symbolic links")),
    ([*CAL, "--out", "fifo"], ("output fifo", "a FIFO, not a regular file")),
    ([*CAL, "--out", "/dev/null"], ("output /dev/null", "a device, not a regular file")),
    ([*CAL, "--out", "file/p.yaml"], ("output file/p.yaml", "Not a directory")),
    ([*CAL, "--out", LONG], ("output xxx", "name too long")),
    ([*CAL, "--out", f"new/{LONG}/p.yaml"], ("output new/xxx", "longer than 255 bytes")),
    ([*CAL, "--out", "study/study.json"], ("output study/study.json", "a file of the study")),
    ([*CAL, "--out", "study/scores.jsonl"], ("output study/scores.jsonl", "a file of the study")),
    ([*CAL, "--study", "new", "--out", "new/study.db"], ("output new/study.db", "a file of the study")),
    ([*CAL, "--prompts", "good.txt", "--out", "good.txt"], ("output good.txt", "an input of this command")),
    *(
        ([*CAL, "--study", "new", "--log-file", name], (f"log file {name}", rule))
        for name, rule in (
            ("folder", "is a folder"), ("fifo", "a FIFO, not a regular file"), ("/dev/null", "a device"),
            ("good.yaml", "it is there and no log"), ("new/study.db", "a file of the study"),
            ("study/scores.jsonl", "a file of the study"), ("profile.yaml", "an output of this command"),
            ("file/run.jsonl", "Not a directory"), (LONG, "name too long"),
        )
    ),
    ([*CAL, "--prompts", "good.txt", "--log-file", "good.txt"], ("log file good.txt", "an input of this command")),
    (["verify", "good.yaml", "--quiet", "--log-file", "good.yaml"], ("log file good.yaml", "an input of this command")),
    ([*CAL, "--study", "file"], ("study folder file", "not a folder")),
    ([*CAL, "--study", "file/s"], ("study folder file/s", "Not a directory")),
    ([*CAL, "--study", LONG], ("study folder xxx", "longer than 255 bytes")),
    ([*CAL, "--study", "a?b"], ("study folder a?b", "must not hold '?'")),
    ([*CAL, "--study", "study", "--seed", "5"], ("study study", "seed was 0, now 5")),
    (
        [*CAL, "--study", "study", "--noise", "independent"],
        ("study study", "noise was 'complement', now 'independent'"),
    ),
    ([*CAL, "--study", "study", "--num-prompts", "20"], ("study study", "num_prompts was 60, now 20")),
    ([*CAL, "--study", "study"], ("study study", "num_prompts was 60, now 50")),
    ([*CAL, "--num-prompts", "10", "--scorer", "os:getcwd"], ("scorer 'os:getcwd'", "takes no arguments")),
    (["report", "study", "--out", "profile.yaml"], ("output profile.yaml", "a report is a page of HTML")),
    ([*CAL, "--study", "study", "--model", "sd15"], ("study study", "model was 'shapes', now 'sd15'")),
    ([*CAL, "--study", "records/list"], ("records/list", "start anew (--fresh)")),
    ([*CAL, "--storage", "nonsense"], ("the storage URL", "cannot be read")),
    ([*CAL, "--storage", "nothing://host/db"], ("nothing://host/db", "cannot be used")),
    ([*CAL, "--storage", "sqlite:///nowhere/s.db"], ("sqlite:///nowhere/s.db", "folder is not there")),
    ([*CAL, "--storage", "postgresql://u:sesame@127.0.0.1:1/db"], ("u:***@127.0.0.1:1", "cannot be used")),
    ([*CAL, "--storage", "sqlite:///file/s.db"], ("sqlite:///file/s.db", "folder is not there")),
    ([*CAL, "--name", "mine"], ("--name mine", "--storage")),
    ([*CAL, "--bugdet", "60%"], ("--bugdet", "--help")),
    ([*CAL, "--budget"], ("--budget", "argument")),
    ([*CAL, "extra"], ("extra", "--help")),
    (["cost", "--height", "1000000", "--width", "1000000"], ("1000000×1000000", "at most 16384 pixels")),
    (["cost", "--height", "7"], ("size 7×64", "multiples of 4")),
    (["cost", "--height", "-8"], ("--height -8", "0")),
    (["cost", "-T", "abc"], ("-T abc", "integer")),
    (["cost", "--convention", "none"], ("--convention none", "paper or full")),
    (["cost", "--model", "sd99"], ("sd99", "no such card")),
    (["cost", "--budget", "60%"], ("--budget", "--grid")),
    (["cost", "--grid", "--budget", "fast"], ("budget 'fast'", "write such as")),
    (["cost", "--out", "o.json"], ("--out", "--measure")),
    (["cost", "--table", "table.json", "--measure"], ("--table with --measure", "leave one out")),
    (["cost", "--table", "none.json"], ("none.json", "No such file")),
    (["cost", "--table", "folder"], ("cost table folder", "Is a directory")),
    (["cost", "--table", LONG], ("cost table xxx", "name too long")),
    (["cost", "--table", "table.json", "--model", "sd15"], ("--table table.json", "of shapes, not sd15")),
    (["cost", "--grid", "--plot", "folder"], ("plot folder", "is a folder")),
    (["cost", "--grid", "--plot", "none/a.png"], ("plot none/a.png", "no folder none")),
    (["cost", "--grid", "--plot", "a.strange"], ("plot a.strange", "no image's ending")),
    (["cost", "--grid", "--table", "table.json", "--plot", "table.json"], ("plot table.json", "an input")),
    *((["cost", "--table", f"tables/{name}.json"], (f"tables/{name}.json", "")) for name in wrong_files.tables(
        {"steps": [{"step": {}, "macs": {}, "seconds": {}}], "latency": {}}
    )),
    *((["profile", "show", f"profiles/{name}.yaml"], (f"profiles/{name}.yaml", "")) for name in wrong_files.profiles()),
    (["profile", "show", "none.yaml"], ("profile none.yaml", "No such file")),
    (["profile", "show", "folder"], ("profile folder", "Is a directory")),
    (["profile", "show", "file/p.yaml"], ("profile file/p.yaml", "Not a directory")),
    (["profile", "show", LONG], ("profile xxx", "name too long")),
    (["profile", "show", "/dev/zero"], ("profile /dev/zero", "larger than 1 MB")),
    (["profile", "show"], ("profile show", "--help")),
    (["profile", "shew"], ("shew", "--help")),
    (["compare", "none"], ("study none", "No such file")),
    (["compare", "folder"], ("study folder", "postdiff calibrate")),
    (["compare", "file"], ("study file", "Not a directory")),
    (["compare", LONG], ("study xxx", "name too long")),
    (["compare", "a", "b", "c"], ("3 paths", "leave some out")),
    (["compare", "study", "study"], ("profile study", "Is a directory")),
    (["compare", "good.yaml", "good.yaml", "--plot", "c.png"], ("--plot", "leave them out")),
    (["compare", "good.yaml", "profiles/bomb.yaml"], ("bomb.yaml", "aliases")),
    (["compare", "study", "--budgets", ""], ("budget ''", "write such as")),
    (["compare", "study", "--budgets", "40%,,60%"], ("budget ''", "write such as")),
    (["compare", "study", "--budgets", "40%,9ms"], ("40%", "not in both")),
    (["compare", "study", "--plot", "folder"], ("plot folder", "is a folder")),
    (["compare", "study", "--plot", "fifo"], ("plot fifo", "a FIFO")),
    (["compare", "study", "--plot", "none/c.png"], ("plot none/c.png", "no folder none")),
    (["compare", "study", "--plot", "c.doc"], ("plot c.doc", "no image's ending")),
    (["compare", "study", "--plot", "study/scores.jsonl"], ("plot study/scores.jsonl", "a file of the study")),
    *((["compare", f"records/{name}"], (f"records/{name}", "")) for name in (
        "version", "budget", "budget_number", "seed", "seed_text", "noise", "delta", "guards", "batch", "steps",
        "steps_list", "model", "height", "evidence", "environment", "calibration", "held_out", "trials", "failed",
        "objective", "spread", "term", "searched", "limit", "finalists", "unfound", "fits", "cost", "cost_steps",
        "cost_macs", "cost_latent", "cost_nan", "cost_count", "no_asked", "list", "null", "empty", "half", "deep",
        "digits", "nan", "binary",
    )),
    *((["export", f"blocks/{name}"], ("prompt" if name == "prompts_range" else f"blocks/{name}/scores.jsonl, line", ""))
      for name in (*wrong_files.BLOCKS, "deep")),
    (["export", "none"], ("study none", "No such file")),
    *(
        (["export", "study", *given], ("output m.", rule))
        for given, rule in (
            (["--format", "python", "--out", "m.yaml"], "ends in .py; name one (--out), or take --format yaml"),
            (["--format", "python", "--out", "m.yaml", "--budgets", "40%,60%"], "--format python ends in .py"),
            (["--format", "diffusers", "--out", "m.json"], "or take --format json"),
            (["--out", "m.py"], "--format yaml ends in .yaml or .yml; name one (--out), or take --format python or"),
            (["--out", "m.txt"], "ends in .yaml or .yml; name one (--out)\n"),
        )
    ),
    *(
        ([*command, "--quiet", "--out", out], says)
        for command in (
            ["ablate", "--steps", "8"], ["analyze", "redundancy"], ["compare-methods", "--profile", "good.yaml"],
        )
        for out, says in (
            ("r.png", ("output r.png", "the plot beside it has that name")),
            ("fifo", ("output fifo", "a FIFO")),
            ("study/scores-ToMe-0.5.jsonl", ("output study/scores-ToMe-0.5.jsonl", "a file of the study")),
        )
    ),
    (["compare-methods", "--profile", "good.yaml", "--out", "good.yaml"], ("output good.yaml", "an input")),
    (["prompts", "study", "study", "--out", "r.png"], ("output r.png", "the plot beside it has that name")),
    (["prompts", "study", "study", "--out", "study/about.json"], ("output study/about.json", "a file of the study")),
    (["prompts", "study", "study", "--sizes", "9" * 5000], ("--sizes 999", "from 2 to 100000")),
    (["export", "study", "--format", "toml"], ("--format toml", "formats are")),
    (["export", "study", "--budget", "1s", "--budgets", "2s"], ("--budget with --budgets", "leave one out")),
    (["export", "study", "--budget", "0%"], ("budget '0%'", "write such as")),
    (["export", "study", "--budget", "1%"], ("budget", "1%")),
    (["export", "study", "--budgets", "60%,60pct"], ("60pct", "write such as")),
    (["export", "study", "--delta", "nan"], ("--delta nan", "above 0")),
    (["export", "study", "--out", "study/study.json"], ("output study/study.json", "a file of the study")),
    (["export", "study", "--out", "study/held_out.jsonl"], ("output study/held_out.jsonl", "a file of the study")),
    (["export", "study", "--out", "/dev/null"], ("output /dev/null", "a device")),
    (["export", "study", "--out", "folder"], ("output folder", "is a folder")),
    (["export", "study", "--latency-table", "none.json"], ("none.json", "No such file")),
    (["export", "study", "--latency-table", "tables/list.json"], ("tables/list.json", "not a table")),
    (["export", "study", "--latency-table", "table.json", "--out", "table.json"], ("output table.json", "an input")),
    (["report", "none"], ("study none", "No such file")),
    (["report", "study", "--out", "folder"], ("output folder", "is a folder")),
    (["report", "study", "--out", "study/study.json"], ("output study/study.json", "a file of the study")),
    (["report", "study", "--budget", "fast"], ("budget 'fast'", "write such as")),
    (["generate", "a cat", "--profile", "none.yaml"], ("none.yaml", "No such file")),
    (["generate", "a cat", "--profile", "profiles/guidance_inf.yaml"], ("model.guidance_scale", "a finite number")),
    (["generate", "a cat", "--profile", "good.yaml", "--out", "file"], ("output file", "not a folder")),
    (["generate", "a cat", "--profile", "good.yaml", "--out", "file/x"], ("output file/x", "Not a directory")),
    (["generate", "a cat", "--profile", "good.yaml", "--seed", "-1"], ("--seed -1", "0")),
    (["generate", "a", "b", "--profile", "good.yaml", "--seed", str(2**63 - 1)], ("--seed", "whole number from 0 to")),
    (["generate"], ("generate", "--help")),
    (["verify", "none.yaml"], ("none.yaml", "No such file")),
    (["verify", "good.yaml", "--prompts", "3"], ("--prompts 3", "10")),
    (["worker"], ("--storage", "--help")),
    (["worker", "--storage", "nonsense"], ("the storage URL", "cannot be read")),
    (["worker", "--storage", "sqlite:///none.db"], ("sqlite:///none.db", "there is none")),
    *(([*SAMPLE, "--from", f"prompts/{name}", "--out", "o.jsonl"], (f"prompts/{name}", ""))
      for name in wrong_files.PROMPTS if name != "empty.txt"),
    ([*SAMPLE, "--from", "none.txt", "--out", "o.jsonl"], ("none.txt", "no such file")),
    ([*SAMPLE, "--from", "folder", "--out", "o.jsonl"], ("folder", "no such file")),
    ([*SAMPLE, "--from", "fifo", "--out", "o.jsonl"], ("fifo", "not a regular file")),
    ([*SAMPLE, "--from", LONG, "--out", "o.jsonl"], ("xxx", "no such file")),
    ([*SAMPLE, "--from", "prompts/empty.txt", "--out", "o.jsonl"], ("empty", "0 distinct prompts")),
    ([*SAMPLE, "--from", "good.txt", "--out", "good.txt"], ("output good.txt", "an input of this command")),
    ([*SAMPLE, "--from", "good.txt", "--out", "./folder/../good.txt"], ("good.txt", "an input of this command")),
    ([*SAMPLE, "--from", "good.txt", "--out", "/dev/null"], ("output /dev/null", "a device")),
    ([*SAMPLE, "--from", "good.txt", "--out", "file/o.jsonl"], ("output file/o.jsonl", "Not a directory")),
    ([*SAMPLE, "--from", "good.txt", "--out", "o.jsonl", "--seed", "-3"], ("--seed -3", "0")),
    ([*SAMPLE, "--from", "good.txt", "--out", "o.jsonl", "--stratify", "x"], ("--stratify x", "length")),
    (["prompts", "sample", "--size", "0", "--from", "good.txt", "--out", "o.jsonl"], ("size=0", "at least 1")),
    (["prompts", "sample", "--size", "500", "--from", "good.txt", "--out", "o.jsonl"], ("40 distinct", "--size")),
    (["prompts", "sample", "--from", "good.txt"], ("--out", "--help")),
    *(
        ([*SAMPLE, "--from", file, "--out", "o.jsonl", *options], said)
        for file, options, said in (
            ("good.txt", ["--column", "a"], ("--column 'a'", "without columns", "leave it out")),
            ("good.txt", ["--category", "a"], ("--category 'a'", "without columns")),
            ("good.tsv", ["--column", "Text"], ("--column 'Text'", "columns Prompt, Kind, Kind")),
            ("good.tsv", ["--column", ""], ("--column ''", "columns Prompt, Kind, Kind")),
            ("good.tsv", ["--category", "kind"], ("--category 'kind'", "2 columns of that name")),
            ("good.tsv", ["--category", "prompt"], ("--category 'prompt'", "holds the prompts")),
        )
    ),
    (["nothing"], ("nothing", "--help")),
    (["--bogus"], ("--bogus", "--help")),
]  # fmt: skip


def snapshot(folder):
    """Every path below a folder with its kind, mode, size and time of change."""
    found = {}
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(root, name)
            facts = os.lstat(path)
            size = 0 if stat.S_ISDIR(facts.st_mode) else facts.st_size
            found[path] = (facts.st_mode, size, facts.st_mtime_ns if not stat.S_ISDIR(facts.st_mode) else 0)
    return found


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wrong")
    wrong_files.write(folder)
    return folder


@pytest.fixture
def run(here, capsys, monkeypatch):
    monkeypatch.chdir(here)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def run(*argv):
        with pytest.raises(SystemExit) as stop:
            main(list(argv))
        out = capsys.readouterr()
        return stop.value.code, out.out, out.err

    return run


def name_of(argv):
    return " ".join(argv)[:90].encode("unicode_escape").decode()


@pytest.mark.parametrize(("argv", "says"), ROWS, ids=[name_of(argv) for argv, _ in ROWS])
def test_one_line_exit_code_two_and_nothing_changed(here, run, argv, says):
    before = snapshot(here)
    code, out, err = run(*argv)
    assert snapshot(here) == before
    assert (code, out) == (2, "")
    assert err.startswith("postdiff: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert err[:-1].isprintable()
    for words in says:
        assert words in err
    given, _, rest = err.removeprefix("postdiff: ").partition(": ")
    rule, _, remedy = rest.rpartition("; ")
    assert given
    assert rule
    assert remedy.strip()
    assert "sesame" not in err


def test_the_table_is_long_enough():
    assert len(ROWS) >= 250
