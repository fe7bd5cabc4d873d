"""Settings: flags, names, saved files, and what they refuse."""

import dataclasses
import json
import re

import pytest

from fid import PROTOCOLS
from lib.config import differences, load_saved, name_of, save_config
from lib.errors import UserError
from lib.flags import make_parser, parse
from main import SYSTEMS
from systems.dcgan import DCGANConfig
from systems.srgan.config import PRESETS as SRGAN_PRESETS
from systems.srgan.config import SRGANConfig

CLASSES = {name: system.config_class for name, system in SYSTEMS.items()}


def read(*argv: str):
    return parse(list(argv), CLASSES, "")


def test_a_run_of_another_model_is_named_as_such(tmp_path):
    (tmp_path / "a").mkdir()
    classes = {name: system.config_class for name, system in SYSTEMS.items()}
    for saved, words in (("dcgan", "is a run of --model dcgan, not of vae"), (["dcgan"], "run of")):
        (tmp_path / "a" / "config.json").write_text(json.dumps({"model": saved}))
        with pytest.raises(UserError, match=words):
            parse(["--model", "vae", "--run", "a", "--runs_dir", str(tmp_path)], classes, "")
    with pytest.raises(UserError, match="wanted one of"):
        parse(["--run", "a", "--runs_dir", str(tmp_path)], classes, "")


def test_the_flags_of_row_1_and_their_defaults():
    config = read()
    expected = {
        "do_train": False,
        "no_cuda": False,
        "latent_dim": 16,
        "generator_hidden_dim": 16,
        "discriminator_hidden_dim": 16,
        "batch_size": 64,
        "num_training_steps": 5000,
        "logging_steps": 10,
        "saving_steps": 1000,
        "learning_rate": 2e-4,
        "beta1": 0.5,
        "data_dir": "data",
        "seed": 42,
        "model": "dcgan",
        "device": "auto",
        "runs_dir": "runs",
        "fid_protocol": "homework",
    }
    assert expected.items() <= dataclasses.asdict(config).items()


def test_flags_become_fields():
    config = read("--do_train", "--latent_dim", "100", "--learning_rate", "1e-3")
    assert (config.do_train, config.latent_dim, config.learning_rate) == (True, 100, 1e-3)


def test_the_name_says_what_defines_the_run_and_nothing_else():
    assert name_of(DCGANConfig()) == "dcgan-mnist-32px-z16-g16-d16-b64-s42"
    assert name_of(DCGANConfig(num_training_steps=9, logging_steps=3)) == name_of(DCGANConfig())
    assert name_of(DCGANConfig(beta1=0.9)).endswith("-s42-beta1=0.9")
    assert name_of(DCGANConfig(seed=1)) != name_of(DCGANConfig())


def test_a_name_too_long_for_a_folder_ends_in_a_digest_of_the_whole(tmp_path):
    changes = SRGAN_PRESETS["best"] | {"dataset": "folder", "folder": "ü" * 60}
    a, again, other = (
        SRGANConfig(model="srgan", **changes, beta2=beta2) for beta2 in (0.9, 0.9, 0.99)
    )
    assert name_of(a).startswith("srgan-folder-64px-g64-d32-b16-s42-folder=")
    assert 250 < len(name_of(a).encode()) <= 255
    assert name_of(a) == name_of(again) != name_of(other)
    (tmp_path / name_of(a)).mkdir()
    assert name_of(SRGANConfig(dataset="folder", folder="x")).endswith("-folder=x")


def test_a_preset_lies_under_the_flags_and_over_the_defaults(monkeypatch):
    monkeypatch.setattr(DCGANConfig, "PRESETS", {"wide": {"latent_dim": 64, "beta1": 0.0}})
    config = read("--latent_dim", "32", "--preset", "wide")
    assert (config.latent_dim, config.beta1, config.preset) == (32, 0.0, "")
    assert read().beta1 == 0.5
    with pytest.raises(UserError, match="--preset narrow: this model's presets are: wide"):
        read("--preset", "narrow")


def test_an_error_over_a_presets_value_says_whose_it_is():
    with pytest.raises(UserError, match=r"no penalty.*The preset has --penalty_weight 1.0, --pen"):
        read("--preset", "best", "--penalty", "none")
    void = ["--penalty_weight", "10", "--penalty_every", "1"]
    assert read("--preset", "best", "--penalty", "none", *void).penalty == "none"
    with pytest.raises(UserError) as error:
        read("--penalty_weight", "3")
    assert "preset" not in str(error.value)


def test_a_switch_of_a_preset_is_taken_back_by_a_flag(monkeypatch, capsys):
    monkeypatch.setattr(DCGANConfig, "PRESETS", {"own": {"fresh_noise": True}})
    assert read("--preset", "own").fresh_noise
    assert not read("--preset", "own", "--fresh_noise", "off").fresh_noise
    assert read("--fresh_noise", "on").fresh_noise
    with pytest.raises(SystemExit):
        read("--fresh_noise", "perhaps")
    assert "found 'perhaps', wanted on or off" in capsys.readouterr().err


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
        (["--run", ".."], "without slashes"),
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
    ],
)
def test_bad_flags_are_refused_with_status_2(argv, words, capsys):
    with pytest.raises(SystemExit) as stop:
        read(*argv)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_wrong_types_are_refused_in_code_too():
    with pytest.raises(UserError, match="latent_dim"):
        DCGANConfig(latent_dim=1.5)
    with pytest.raises(UserError, match="do_train"):
        DCGANConfig(do_train=1)


def test_config_json_gives_the_config_back(tmp_path):
    config = DCGANConfig(latent_dim=100, learning_rate=1.0)
    save_config(config, tmp_path / "config.json")
    assert DCGANConfig(**load_saved(tmp_path / "config.json")) == config


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_a_broken_config_json_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json"):
        load_saved(tmp_path / "config.json")


def test_run_brings_back_the_settings_of_that_run(tmp_path):
    where = ["--runs_dir", str(tmp_path), "--run", "mine"]
    saved = DCGANConfig(latent_dim=100, num_training_steps=7, do_train=True, seed=3)
    (tmp_path / "mine").mkdir()
    save_config(saved, tmp_path / "mine" / "config.json")
    config = read(*where)
    assert (config.latent_dim, config.num_training_steps, config.seed) == (100, 7, 3)
    assert not config.do_train
    assert read(*where, "--num_training_steps", "9").num_training_steps == 9
    with pytest.raises(UserError, match="latent_dim is 100 there, 16 here"):
        read(*where, "--latent_dim", "16")


def test_unknown_settings_in_a_saved_config_are_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"latent_dimm": 3}))
    with pytest.raises(UserError, match="latent_dimm"):
        read("--runs_dir", str(tmp_path.parent), "--run", tmp_path.name)


def test_differences_name_defining_fields_only():
    saved = dataclasses.asdict(DCGANConfig(generator_hidden_dim=100, num_training_steps=3))
    assert differences(DCGANConfig(), saved) == ["generator_hidden_dim is 100 there, 16 here"]


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_flag_is_in_the_help_with_its_text(name):
    text = make_parser(CLASSES[name], "").format_help()
    for field in dataclasses.fields(CLASSES[name]):
        assert f"--{field.name}" in text
        assert field.metadata["text"]
        if field.default not in ("", False):
            assert f"(default: {field.default})" in " ".join(text.split())


def test_the_protocols_offered_are_the_protocols_there_are():
    assert DCGANConfig.__dataclass_fields__["fid_protocol"].metadata["choices"] == tuple(PROTOCOLS)


@pytest.mark.parametrize(
    "flags", [["--d_norm", "none"], ["--upsample", "resize"], ["--init", "scaled"]]
)
def test_choices_among_convolutions_are_refused_for_the_mlp(flags):
    with pytest.raises(UserError, match=r"--arch mlp has none"):
        read("--arch", "mlp", *flags)


def test_two_spellings_of_a_path_are_one_setting(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved = {"dataset": "folder", "folder": str(tmp_path / "photos")}
    for folder in ("./photos", f"{tmp_path}/photos/"):
        assert differences(DCGANConfig(dataset="folder", folder=folder), saved) == []
    assert differences(DCGANConfig(dataset="folder", folder="./other"), saved)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"penalty_weight": 3.0}, "there is no penalty"),
        ({"penalty_every": 4}, "there is no penalty"),
        ({"decay_to": 2, "num_training_steps": 4}, "--decay_to 2 is before"),
        ({"do_train": True, "no_score": True, "fid_every": 5}, "--no_score forbids"),
        ({"batch_size": 10**11}, "wanted less than 1000001"),
    ],
)
def test_settings_that_would_do_nothing_or_too_much_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        DCGANConfig(**settings)


def test_the_first_look_at_the_flags_is_as_polite_as_the_second(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(["--model"], {"dcgan": DCGANConfig}, "")
    assert stop.value.code == 2
    found = capsys.readouterr().err
    assert found.startswith("error: argument --model: expected one argument;")
    assert found.count("\n") == 1


def test_help_tells_the_default_of_every_flag_that_has_one():
    text = make_parser(DCGANConfig, "").format_help()
    assert re.search(r"--dry_run\s[^-]*\(default: off\)", text)


def test_help_names_the_models_and_the_presets(capsys):
    with pytest.raises(SystemExit):
        read("--model", "cyclegan", "--help")
    text = capsys.readouterr().out
    assert "--model {" + ",".join(SYSTEMS) + "}" in text
    assert "--preset {emoji,paper}" in text
