"""Settings: flags, names, saved files, and what they refuse."""

import contextlib
import dataclasses
import io
import json
import re

import pytest

from GAN import INITS, NORMS
from lib.config import RETIRED, Config, Retired, differences, load_saved, name_of, save_config
from lib.errors import UserError
from lib.flags import parse
from lib.settings import default
from main import SYSTEMS
from metrics.protocols import PROTOCOLS
from systems.dcgan import DCGANConfig
from systems.srgan.config import PRESETS as SRGAN_PRESETS
from systems.srgan.config import SRGANConfig

CLASSES = {name: system.config_class for name, system in SYSTEMS.items()}


def read(*argv: str):
    return parse(list(argv), CLASSES, "")


def test_a_run_of_another_model_is_named_as_such(tmp_path):
    (tmp_path / "a").mkdir()
    for saved, words in (("dcgan", "is a run of --model dcgan, not of vae"), (["dcgan"], "run of")):
        (tmp_path / "a" / "config.json").write_text(json.dumps({"model": saved}))
        with pytest.raises(UserError, match=words):
            parse(["--model", "vae", "--run", "a", "--runs_dir", str(tmp_path)], CLASSES, "")
    with pytest.raises(UserError, match="wanted one of"):
        parse(["--run", "a", "--runs_dir", str(tmp_path)], CLASSES, "")


def test_the_flags_of_row_1_and_their_defaults():
    config = read()
    expected = {"do_train": False, "no_cuda": False, "latent_dim": 16, "batch_size": 64}
    expected |= {"generator_hidden_dim": 16, "discriminator_hidden_dim": 16}
    expected |= {"num_training_steps": 5000, "logging_steps": 10, "saving_steps": 1000}
    expected |= {"learning_rate": 2e-4, "beta1": 0.5, "data_dir": "data", "seed": 42}
    expected |= {"model": "dcgan", "device": "auto", "runs_dir": "runs"}
    expected |= {"fid_protocol": "homework"}
    assert expected.items() <= dataclasses.asdict(config).items()


def test_the_name_says_what_defines_the_run_and_nothing_else():
    assert name_of(DCGANConfig()) == "dcgan-mnist-32px-z16-g16-d16-b64-s42"
    assert name_of(DCGANConfig(num_training_steps=9, logging_steps=3)) == name_of(DCGANConfig())
    assert name_of(DCGANConfig(beta1=0.9)).endswith("-s42-beta1=0.9")
    assert name_of(DCGANConfig(seed=1)) != name_of(DCGANConfig())


def test_a_name_too_long_for_a_folder_ends_in_a_digest_of_the_whole(tmp_path):
    changes = SRGAN_PRESETS["best"] | {"dataset": "folder", "folder": "ü" * 60}
    changes["model"] = "srgan"
    a, again, other = (SRGANConfig(**changes, beta2=beta2) for beta2 in (0.9, 0.9, 0.99))
    assert name_of(a).startswith("srgan-folder-64px-g64-d32-b16-s42-folder=")
    assert 250 < len(name_of(a).encode()) <= 255
    assert name_of(a) == name_of(again) != name_of(other)
    (tmp_path / name_of(a)).mkdir()
    assert name_of(SRGANConfig(dataset="folder", folder="x")).endswith("-folder=x")


def test_a_preset_lies_under_the_flags_and_over_the_defaults(monkeypatch):
    monkeypatch.setattr(DCGANConfig, "PRESETS", {"wide": {"latent_dim": 64, "fresh_noise": True}})
    config = read("--latent_dim", "32", "--preset", "wide")
    assert (config.latent_dim, config.fresh_noise, config.preset) == (32, True, "")
    assert not read().fresh_noise
    assert not read("--preset", "wide", "--fresh_noise", "off").fresh_noise
    assert read("--fresh_noise", "on").fresh_noise
    with pytest.raises(UserError, match="--preset narrow: this model's presets are: wide"):
        read("--preset", "narrow")


def test_an_error_over_a_presets_value_says_whose_it_is():
    told = "this is none.*The preset has --penalty_weight 0.1, --pen"
    with pytest.raises(UserError, match=told):
        read("--preset", "best", "--penalty", "none")
    void = ["--penalty_weight", "10", "--penalty_every", "1"]
    assert read("--preset", "best", "--penalty", "none", *void).penalty == "none"
    with pytest.raises(UserError) as error:
        read("--penalty_weight", "3")
    assert "preset" not in str(error.value)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--latent_dim", "0"], "--latent_dim 0: wanted at least 1"),
        (["--batch_size", "1"], "wanted at least 2"),
        (["--learning_rate", "0"], "wanted more than 0"),
        (["--learning_rate", "nan"], "wanted more than 0"),
        (["--beta1", "1"], "wanted less than 1"),
        (["--model", "dcgen"], "wanted one of dcgan"),
        (["--run", "../elsewhere"], "without slashes"),
        (["--model", ""], "--model : wanted one of dcgan"),
        (["--runs_dir", ""], "--runs_dir '': wanted a folder's path"),
        (["--data_dir", "~/d"], "--data_dir '~/d': wanted a folder's path"),
        (["--run=-x"], "wanted a plain folder name"),
        (["--data_dir", ""], "--data_dir '': wanted a folder's path"),
        (["--learning_rate", "inf"], "wanted at most 1e[+]38"),
        (["--latent_dim", "9" * 401], "--latent_dim 9{50}[.]{3}: wanted at most 1,000,000"),
        (["--seed", "9" * 401], "wanted at most 1,000,000,000,000"),
        (["--model", "cyclegan", "--residual_blocks", "1000000"], "wanted at most 1,000[.]"),
        (["--d_steps", "1000000"], "wanted at most 1,000[.]"),
    ],
)
def test_bad_values_are_refused_in_a_sentence(argv, words):
    with pytest.raises(UserError, match=words):
        read(*argv)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--latnt_dim", "3"], "did you mean --latent_dim"),
        (["--latent", "3"], "unknown flag --latent"),
        (["--fid_protocol", "20k"], "choose from"),
        (["--latent_dim", "many"], "invalid int value"),
        (["--fresh_noise", "perhaps"], "found 'perhaps', wanted on or off"),
        (["--model"], "error: argument --model: expected one argument;"),
        (["--prompt", "red cube"], "use python scripts/sample.py RUN --prompt"),
        (["--translate=photos", "--out", "x"], "use python scripts/translate.py"),
        (["--upscale", "photos"], "use python scripts/upscale.py"),
        (["--cuda_graph", "on"], "--cuda_graph is no longer a flag: leave it out"),
    ],
)
def test_bad_flags_are_refused_with_status_2(argv, words, capsys):
    with pytest.raises(SystemExit) as stop:
        read(*argv)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_config_json_gives_the_config_back_and_is_named_if_broken(tmp_path):
    config = DCGANConfig(latent_dim=100, learning_rate=1.0)
    path = tmp_path / "config.json"
    save_config(config, path)
    assert DCGANConfig(**load_saved(path)) == config
    for text in ("", "[]", "{"):
        path.write_text(text)
        with pytest.raises(UserError, match=r"config\.json"):
            load_saved(path)


def test_run_brings_back_the_settings_of_that_run(tmp_path):
    saved = {"latent_dim": 100, "num_training_steps": 7, "do_train": True, "seed": 3}
    old = saved_run(tmp_path, **saved)
    config = read(*old)
    assert (config.latent_dim, config.num_training_steps, config.seed) == (100, 7, 3)
    assert not config.do_train
    assert read(*old, "--num_training_steps", "9").num_training_steps == 9
    with pytest.raises(UserError, match="latent_dim is 100 there, 16 here"):
        read(*old, "--latent_dim", "16")


def help_of(*argv: str) -> str:
    """What a command prints that ends in --help or --help_all."""
    with pytest.raises(SystemExit) as stop, contextlib.redirect_stdout(io.StringIO()) as out:
        read(*argv)
    assert stop.value.code == 0
    return out.getvalue()


def flags_in(text: str) -> list[str]:
    return re.findall(r"^  --(\w+)", text, re.M)


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_flag_is_in_the_help_with_its_text_and_a_models_own_in_its_short_one(name):
    text = help_of("--model", name, "--help_all")
    fields = dataclasses.fields(CLASSES[name])
    for field in fields:
        assert f"--{field.name}" in text
        assert field.metadata["text"]
        if field.default not in ("", False):
            assert f"(default: {field.default})" in " ".join(text.split())
    text = help_of("--model", name, "--help")
    assert "--model {" + ",".join(SYSTEMS) + "}" in text
    if presets := CLASSES[name].PRESETS:
        assert "--preset {" + ",".join(presets) + "}" in text
    shown = set(flags_in(text))
    assert {f.name for f in fields} - {f.name for f in dataclasses.fields(Config)} <= shown
    assert "keep_checkpoints" not in shown


def test_the_short_help_has_the_homeworks_flags_first_and_fits_a_screen():
    text = help_of("--help")
    assert len(text.splitlines()) <= 65
    shown = [flag for flag in flags_in(text) if flag != "help_all"]
    assert set(shown[:13]) == {
        *("do_train", "no_cuda", "latent_dim", "generator_hidden_dim", "discriminator_hidden_dim"),
        *("batch_size", "num_training_steps", "logging_steps", "saving_steps", "learning_rate"),
        *("beta1", "data_dir", "seed"),
    }
    assert "--help_all" in text
    assert set(shown) < set(flags_in(every := help_of("--help_all")))
    assert re.search(r"--dry_run\s[^-]*\(default: off\)", every)


def test_a_default_given_anew_keeps_the_bounds_and_the_text(monkeypatch):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Own(DCGANConfig):
        beta1: float = default(0.0)
        latent_dim: int = default(8, at_most=9)

    assert (Own().beta1, Own().latent_dim, DCGANConfig().latent_dim) == (0.0, 8, 16)
    fields, base = Own.__dataclass_fields__, DCGANConfig.__dataclass_fields__
    assert fields["beta1"].metadata == base["beta1"].metadata
    for changes in ({"beta1": 1.0}, {"latent_dim": 10}, {"latent_dim": 0}):
        with pytest.raises(UserError, match="wanted"):
            Own(**changes)
    assert name_of(Own(beta1=0.5)) == "dcgan-mnist-32px-z8-g16-d16-b64-s42-beta1=0.5"


def saved_run(folder, **settings) -> list[str]:
    """The flags that name a run with these settings in its config.json."""
    (folder / "old").mkdir(exist_ok=True)
    text = json.dumps(dataclasses.asdict(DCGANConfig()) | settings)
    (folder / "old" / "config.json").write_text(text, encoding="utf-8-sig")  # as some editors do
    return ["--runs_dir", str(folder), "--run", "old"]


def test_a_saved_run_may_have_retired_settings_and_no_unknown_ones(tmp_path, monkeypatch):
    once = {"cuda_graph": "off", "prompt": "(none)", "translate": "", "upscale": "", "out": ""}
    assert read(*saved_run(tmp_path, **once)) == read(*saved_run(tmp_path))
    monkeypatch.setitem(RETIRED, "warm", Retired("", "leave it out", role="defines"))
    assert read(*saved_run(tmp_path, warm="")).run == "old"
    with pytest.raises(UserError, match="unknown settings: latent_dimm"):
        read(*saved_run(tmp_path, latent_dimm=3))
    with pytest.raises(UserError, match="warm is x there, and is no longer a setting"):
        read(*saved_run(tmp_path, warm="x"))


def test_the_choices_offered_are_those_there_are():
    fields = DCGANConfig.__dataclass_fields__
    for name, there in (("d_norm", NORMS), ("init", INITS), ("fid_protocol", PROTOCOLS)):
        assert fields[name].metadata["choices"] == tuple(there)


def test_differences_are_those_of_values_that_define_the_run(tmp_path, monkeypatch):
    saved = dataclasses.asdict(DCGANConfig(generator_hidden_dim=100, num_training_steps=3))
    assert differences(DCGANConfig(), saved) == ["generator_hidden_dim is 100 there, 16 here"]
    monkeypatch.chdir(tmp_path)
    saved = {"dataset": "folder", "folder": str(tmp_path / "photos")}
    for folder in ("./photos", f"{tmp_path}/photos/"):
        assert differences(DCGANConfig(dataset="folder", folder=folder), saved) == []
    assert differences(DCGANConfig(dataset="folder", folder="./other"), saved)


REFUSED = {
    "dcgan": [
        ({"penalty_weight": 3.0}, r"--penalty_weight 3.0 belongs to --penalty gp\|r1\|zero"),
        ({"penalty_every": 4}, "--penalty_every 4 belongs to .*, and this is none"),
        ({"penalty_weight": 3.0, "penalty_every": 4}, "_weight 3.0 --penalty_every 4 belong to"),
        ({"decay_to": 2, "num_training_steps": 4}, "--decay_to 2 is before"),
        ({"do_train": True, "no_score": True, "fid_every": 5}, "--no_score forbids"),
        ({"batch_size": 10**11}, "wanted at most 1,000,000"),
        ({"inception_weights": "/dev/zero"}, "wanted a file or a folder"),
        ({"latent_dim": 1.5}, "latent_dim"),
        ({"do_train": 1}, "do_train"),
        ({"arch": "mlp", "d_norm": "none"}, "belongs to --arch cnn, and this is mlp"),
        ({"dataset": "folder"}, "needs --folder PATH"),
        ({"folder": "x"}, "--folder x belongs to --dataset folder, and this is mnist"),
        ({"emoji_style": "Apple"}, "belongs to --dataset emoji"),
        ({"dataset": "emoji", "small_images": "skip"}, "belongs to --dataset folder"),
        ({"dataset": "stl10", "collapse_every": 5}, "belongs to --dataset mnist"),
        ({"dataset": "cifar"}, "one of mnist, fashion, cifar10, stl10, emoji, iclevr, folder"),
    ],
    "cdcgan": [
        ({"dataset": "mnist"}, "wanted one of iclevr"),
        ({"condition": "film"}, "wanted one of concat, projection"),
    ],
    "cyclegan": [
        ({"direction": "c2d"}, "one of a2b, b2a"),
        ({"stem": 7}, "--stem 7 belongs to --arch plain"),
        ({"decay_from": 8, "decay_to": 8}, "wanted the first below"),
        ({"decay_from": 1, "decay_to": 2, "num_training_steps": 4}, "--decay_to 2 is before"),
    ],
    "biggan": [
        ({"latent_dim": 6}, "multiple of 4"),
        ({"image_size": 64}, "--layout published"),
        ({"attention": 32}, "maps of 8, 16 at 32 pixels"),
    ],
    "vae": [
        ({"beta": -0.1}, "--beta -0.1: wanted at least 0"),
        ({"likelihood": "mse", "pixels": "stochastic"}, "mse belongs to --pixels grey"),
        ({"width": 8}, "belongs to --arch conv, and this is fc"),
        ({"image_size": 30}, "wanted one of 28, 32, 64"),
    ],
    "srgan": [
        ({"fresh_noise": True}, "G has small images here, not noise"),
        ({"adversarial_weight": 0.0, "feature_matching_weight": 1.0}, "above 0, and this is 0.0"),
        ({"adversarial_weight": 0.0, "d_steps": 2}, "belongs to --adversarial_weight above 0"),
        ({"adversarial_weight": 0.0, "reconstruction_weight": 0.0}, "G has no loss"),
        ({"loss": "bcee"}, "one of bce"),
        ({"adversarial_weight": 0.0, "penalty": "gp"}, "gp: --adversarial_weight 0 has no D"),
        ({"residual_blocks": 4}, "belongs to --arch residual, and this is unet"),
    ],
}


@pytest.mark.parametrize(
    ("model", "settings", "words"), [(model, *case) for model in REFUSED for case in REFUSED[model]]
)
def test_settings_that_contradict_each_other_are_refused_in_a_sentence(model, settings, words):
    with pytest.raises(UserError, match=words) as error:
        CLASSES[model](model=model, **settings)
    assert "\n" not in str(error.value)
