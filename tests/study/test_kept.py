"""Which of the paper's studies a report shows: those of its own model, in its folder and beside it."""

import json

from postdiff_calib.study.kept import kept_studies


def test_prompt_sizes_are_of_the_model_of_the_study_that_they_lie_with(tmp_path):
    def put(place, name, **data):
        (tmp_path / place).mkdir(exist_ok=True)
        (tmp_path / place / name).write_text(json.dumps(data))

    put("shapes", "sizes.json", study="prompt sizes")
    put("shapes", "other.json", study="ablation", model="shapes-flow")
    put("shapes-ablation", "ablation.json", study="ablation", model="shapes")
    put("shapes-ablation", "sizes.json", study="prompt sizes")
    # another model whose name begins alike
    put("shapes-flow", "sizes.json", study="prompt sizes")
    put("shapes-flow-ablation", "ablation.json", study="ablation", model="shapes-flow")
    put("shapes-flow-ablation", "sizes.json", study="prompt sizes")
    put("shapes-flow-ablation", "list.json")
    found = [str(one.path.relative_to(tmp_path)) for one in kept_studies(tmp_path / "shapes", "shapes")]
    assert sorted(found) == ["shapes-ablation/ablation.json", "shapes-ablation/sizes.json", "shapes/sizes.json"]
