"""The report: what it concludes from made results, and its page in a real browser."""

import errno
import html.parser
import re
import shutil
import subprocess
import warnings

import numpy as np
import pytest
import torch
from conftest import TINY, PixelMeans

from lib import runlog
from lib.errors import UserError
from lib.runlog import append_result
from main import build_dcgan
from metrics.score import in_words, own_in_words
from scripts import doctor, report
from scripts._report.page import effects_section, evenly
from scripts._report.plots import curve, smooth
from scripts._report.runs import (
    choose_protocol,
    effects,
    group_runs,
    label,
    read_run,
    score_runs,
    seed_spread,
    varying,
)
from scripts._report.scores import fid_section, own_section
from systems.dcgan import DCGANConfig

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)


def result(value: float, step: int = 2, protocol: str = "homework") -> dict:
    counts = {"n_real": 3000, "n_fake": 3000, "split": "train", "device": "cpu, 1 threads"}
    made = {"metric": "fid", "value": value, "error": 0.5, "floor": 3.8, "protocol": protocol}
    return made | counts | {"precision": "fp32", "step": step}


@pytest.fixture
def trained(tiny_config):
    """trained(fid=50.0, latent_dim=5, ...) -> the folder of a run of 2 steps with that FID."""

    def make(fid: float | None = None, **changes):
        steps = {"num_training_steps": 2, "logging_steps": 1, "saving_steps": 1}
        trainer = build_dcgan(tiny_config(**(steps | changes)), torch.device("cpu"))
        trainer.train()
        if fid is not None:
            append_result(trainer.config.run_dir, result(fid))
        return trainer.config.run_dir

    return make


def read(folders) -> list:
    runs = [read_run(folder) for folder in folders]
    score_runs(runs, choose_protocol(runs))
    return runs


def test_seeds_are_grouped_and_settings_are_told_apart(trained):
    folders = [trained(50.0), trained(54.0, seed=43), trained(30.0, latent_dim=7)]
    groups = group_runs(read(folders))
    assert [g.values for g in groups] == [[50.0, 54.0], [30.0]]
    assert groups[0].mean == 52.0
    assert groups[0].sd == pytest.approx(8**0.5)
    assert groups[1].sd is None
    assert seed_spread(groups).sd == pytest.approx(8**0.5)
    assert [label(g, varying(groups)) for g in groups] == ["latent_dim 5", "latent_dim 7"]


def test_an_effect_is_a_difference_in_one_setting_with_its_standard_error(trained):
    wide = {"generator_hidden_dim": 6, "discriminator_hidden_dim": 6}
    folders = [trained(50.0), trained(54.0, seed=43), trained(40.0, **wide)]
    folders.append(trained(20.0, latent_dim=7, **wide))  # differs from the first in two settings
    found = effects(group_runs(read(folders)), ("latent_dim", "hidden_dim"))
    assert [(e.factor, e.before, e.after, e.difference) for e in found] == [
        ("latent_dim", 5, 7, -20.0),
        ("hidden_dim", 4, 6, -12.0),
    ]
    assert found[1].standard_error == pytest.approx(8**0.5 * (1 / 2 + 1) ** 0.5)
    assert found[1].others == "latent_dim 5"


def test_only_a_score_of_the_last_step_by_the_common_protocol_counts(trained):
    folders = [trained(50.0), trained(None, seed=43)]
    append_result(folders[1], result(10.0, step=1))
    append_result(folders[1], result(9.0, protocol="smoke"))
    runs = read(folders)
    assert choose_protocol(runs)[:2] == ("homework", "fp32")
    assert runs[0].fid["value"] == 50.0
    assert runs[1].fid is None


def test_smoke_scores_never_take_the_place_of_others(trained):
    folders = [trained(77.0), trained(seed=43), trained(seed=44)]
    for folder in folders[1:]:
        append_result(folder, result(370.0, protocol="smoke"))
    runs = read(folders)
    assert choose_protocol(runs)[0] == "homework"
    assert choose_protocol(runs[1:])[0] == "smoke"  # where there is no other


def test_a_torn_picture_is_left_out_by_name_and_costs_nothing_else(trained, capsys):
    folder = trained(50.0)
    last = folder / "samples" / "samples-0000002.png"
    for size in (last.stat().st_size // 2, 0):
        last.write_bytes(last.read_bytes()[:size])
        assert [step for step, _ in read_run(folder).samples] == [1]
        assert f"left out: {last} is torn" in capsys.readouterr().err


def test_bytes_that_are_no_text_are_passed_over_in_results(trained):
    folder = trained(50.0)
    with open(folder / "results.jsonl", "ab") as file:
        file.write(b"\xff\xfe\x00torn\n")
    append_result(folder, result(40.0))
    assert [r["value"] for r in runlog.read_results(folder)] == [50.0, 40.0]


def test_folders_of_runs_are_not_taken_for_all_runs_there_are(tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / name / "run").mkdir(parents=True)
        (tmp_path / name / "run" / "config.json").write_text("{}")
    folders = [str(tmp_path / "a"), str(tmp_path / "b")]
    for command in (report.main, doctor.main):
        assert command(folders) == 1
        assert "is a run: wanted folders of one run each" in capsys.readouterr().err


def test_one_width_alone_has_its_effect(trained):
    folders = [trained(50.0), trained(40.0, discriminator_hidden_dim=6)]
    groups = group_runs(read(folders))
    (row,) = effects(groups, ("hidden_dim", "generator_hidden_dim", "discriminator_hidden_dim"))
    assert (row.factor, row.before, row.after) == ("discriminator_hidden_dim", 4, 6)
    assert row.difference == -10.0
    assert "No two" not in str(effects_section(groups))


def test_a_dry_run_of_all_makes_no_report(tmp_path, monkeypatch):
    monkeypatch.setattr(report.sweep, "main", lambda argv: 0 if "--dry_run" in argv else 1)
    assert report.main(["--all", "--runs_dir", str(tmp_path / "runs"), "--dry_run"]) == 0
    assert not (tmp_path / "runs").exists()


def test_a_null_is_no_fid(trained):
    folders = [trained(50.0), trained(40.0, seed=43)]
    append_result(folders[1], result(float("nan")))  # written as null
    assert [run.fid["value"] for run in read(folders)] == [50.0, 40.0]


def test_scores_by_other_weights_do_not_mix(trained):
    folders = [trained(50.0), trained(51.0, seed=43), trained(seed=44)]
    append_result(folders[2], result(1.0) | {"weights_sha256": "other"})
    assert [run.fid and run.fid["value"] for run in read(folders)] == [50.0, 51.0, None]


def test_a_score_of_truncated_z_replaces_none_of_the_whole_one(trained):
    folder = trained(50.0)
    own = {"metric": "class_accuracy", "value": 0.5, "step": 2}
    append_result(folder, own)
    append_result(folder, result(30.0) | {"truncation": 0.5})
    append_result(folder, own | {"value": 0.9, "truncation": 0.5})
    (run,) = runs = read([folder])
    assert (run.fid["value"], run.own["class_accuracy"]["value"]) == (50.0, 0.5)
    assert "truncated" not in fid_section(group_runs(runs), [], choose_protocol(runs))["note"]
    truncated = trained(seed=43)
    append_result(truncated, result(30.0) | {"truncation": 0.5})
    append_result(truncated, own | {"value": 0.9, "truncation": 0.5})
    (run,) = runs = read([truncated])
    assert (run.fid["value"], run.own["class_accuracy"]["value"]) == (30.0, 0.9)
    note = fid_section(group_runs(runs), [], choose_protocol(runs))["note"]
    assert "3,000 generated from z truncated at 0.5." in note


def test_a_curve_is_of_one_truncation():
    assert runlog.point_of(result(30.0))[0] == "fid"
    assert runlog.point_of(result(30.0) | {"truncation": 0.0})[0] == "fid"
    assert runlog.point_of(result(30.0) | {"truncation": 0.5})[0] == "fid_truncation_0.5"


def test_a_score_of_a_fitted_density_is_another_score_than_the_priors(trained):
    folder, density = trained(50.0), {"latent_density": "mixture"}
    append_result(folder, result(30.0) | density)
    (run,) = runs = read([folder])
    assert run.fid["value"] == 50.0
    assert "fitted" not in fid_section(group_runs(runs), [], choose_protocol(runs))["note"]
    other = trained(seed=43)
    append_result(other, result(30.0) | density)
    runs = read([other])
    note = fid_section(group_runs(runs), [], choose_protocol(runs))["note"]
    assert "3,000 generated from z of a mixture fitted to the encoder's." in note
    append_result(
        other, {"metric": "elbo_loss", "value": 9.0, "step": 2, "latent_density": "encoder"}
    )
    append_result(other, {"metric": "accuracy", "value": 0.1, "step": 2, "latent_density": "prior"})
    (run,) = read([other])
    assert list(run.own) == ["elbo_loss"]
    assert "generated from z of a mixture" in in_words(
        result(30.0) | density | {"floor_of": "floor"}
    )
    assert runlog.point_of(result(30.0) | density)[0] == "fid_z_mixture"
    assert runlog.point_of(result(30.0) | {"latent_density": "prior"})[0] == "fid"


def test_seeds_that_agree_are_a_spread_of_0_and_not_an_unknown_one(trained):
    folders = [trained(50.0), trained(50.0, seed=43), trained(50.0, latent_dim=7)]
    section = effects_section(group_runs(read(folders)))
    assert section["rows"][0]["difference"] == "+0.0 ± 0.0"
    assert "leaves the FID as it is" in section["sentences"][0]
    assert (
        "spread over seeds is 0.0 (from 1 setting with several seeds, 1 degree of"
        in section["sentences"][1]
    )


def test_a_single_run_is_named_by_the_homeworks_settings(trained):
    groups = group_runs(read([trained(50.0)]))
    assert label(groups[0], varying(groups)) == "latent_dim 5, hidden_dim 4"


def test_the_pass_mark_is_the_homeworks_alone(trained, monkeypatch):
    marks = []
    monkeypatch.setattr("scripts._report.scores.fid_plot", lambda *words: marks.append(words[-1]))
    groups = group_runs(read([trained(50.0)]))
    for protocol in ("homework", "smoke"):
        fid_section(groups, [], (protocol, "fp32", ""))
    assert marks == [60, None]


def kid(value: float, **changes) -> dict:
    return result(value, protocol="all") | {"metric": "kid", "error": 0.002} | changes


def test_kids_have_a_table_of_their_own_beside_whatever_fid_was_chosen(trained):
    folders = [trained(50.0), trained(54.0, seed=43), trained(30.0, latent_dim=7)]
    assert fid_section(group_runs(read(folders)), [], ("homework", "fp32", ""))["kid"]["rows"] == []
    append_result(folders[0], kid(0.0301))
    append_result(folders[0], kid(0.01, step=1))  # of weights that it no longer has
    append_result(folders[1], kid(0.0345))
    append_result(folders[1], kid(0.9, precision="bf16"))
    append_result(folders[2], kid(0.02))
    groups = group_runs(read(folders))
    section = fid_section(groups, varying(groups), ("homework", "fp32", ""))
    assert [row["mean"] for row in section["rows"]] == ["30.0", "52.0"]
    low, high = section["kid"]["rows"]
    assert (low["label"], low["mean"], low["sd"]) == ("latent_dim 7", "0.02000", "one seed")
    assert (high["label"], high["mean"], high["n"]) == ("latent_dim 5", "0.03230", "2")
    assert high["each"] == "0.03010 ± 0.00200 (42), 0.03450 ± 0.00200 (43)"
    assert "Protocol all, fp32: 3,000 real images" in section["kid"]["note"]


def own(metric: str, value: float, error: float | None = 0.01, step: int = 2) -> dict:
    return {"metric": metric, "value": value, "error": error, "step": step}


def test_a_systems_own_scores_are_a_row_a_metric_and_a_column_a_setting(trained):
    folders = [
        trained(50.0),
        trained(54.0, seed=43),
        trained(30.0, latent_dim=7),
        trained(d_steps=2),
    ]
    append_result(folders[0], own("lpips", 0.3))
    append_result(folders[1], own("lpips", 0.4))
    append_result(folders[1], own("lpips", 0.5))  # scored again: the newest counts
    append_result(folders[2], own("lpips", 0.25))
    append_result(folders[2], own("lpips", 0.1, step=1))  # of weights that it no longer has
    append_result(folders[2], own("units", 20, error=None))
    groups = group_runs(read(folders))
    section = own_section(groups)
    assert section["columns"] == ["latent_dim 5", "latent_dim 7"]
    assert section["rows"] == [
        ["lpips", "0.4 (sd 0.14, 2 seeds)", "0.25 ± 0.01"],
        ["units", "", "20"],
    ]


def test_where_none_of_the_homeworks_settings_varies_the_effects_are_of_those_that_do(trained):
    folders = [trained(50.0), trained(40.0, d_steps=2)]
    section = effects_section(group_runs(read(folders)))
    assert section["title"] == "What d_steps does"
    assert [row["difference"] for row in section["rows"]] == ["-10.0"]
    folders.append(trained(45.0, loss="hinge"))
    folders.append(trained(65.0, spectral_norm=True))
    sentences = effects_section(group_runs(read(folders)))["sentences"]
    assert (
        "loss hinge instead of bce lowers the FID by 5.0 on average over 1 comparison." in sentences
    )
    assert any(s.startswith("spectral_norm True instead of False raises") for s in sentences)
    folders.append(trained(30.0, latent_dim=7))
    section = effects_section(group_runs(read(folders)))
    assert section["title"] == "What latent_dim and hidden_dim do"
    assert [row["factor"] for row in section["rows"]] == ["latent_dim"]


def test_smoothing_keeps_constants_and_means():
    assert smooth(np.full(50, 3.0)).tolist() == pytest.approx([3.0] * 50)
    line = np.arange(100.0)
    assert smooth(line)[20:80].tolist() == pytest.approx(line[20:80].tolist())
    assert smooth(np.array([0.0, 1.0]))[0] == 0.5


def test_a_curves_alt_text_says_where_it_goes():
    picture = curve("run", "D(G(z1))", [(10, 0.5), (20, 0.1)])
    assert picture.name == "run-DGz1.png"
    assert "steps 10 to 20" in picture.alt
    assert picture.light.startswith(b"\x89PNG")
    assert picture.dark != picture.light


def test_evenly_keeps_the_last():
    assert evenly([1, 2], 6) == [1, 2]
    assert evenly(list(range(101)), 3) == [0, 50, 100]


class Images(html.parser.HTMLParser):
    """Collects every image's source and alternative text."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict] = []

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.found.append(dict(attrs))


@pytest.fixture(scope="module")
def made(tmp_path_factory, data_dir):
    """The folder of a report of a CNN run, an MLP run and a folder that is none; its status."""
    root = tmp_path_factory.mktemp("report")
    folders = [root / "none"]
    folders[0].mkdir()
    for arch, fid in (("cnn", 50.0), ("mlp", 60.5)):
        steps = {"num_training_steps": 2, "logging_steps": 1, "saving_steps": 1}
        where = {"data_dir": str(data_dir), "runs_dir": str(root)}
        trainer = build_dcgan(DCGANConfig(**(TINY | steps | where), arch=arch), torch.device("cpu"))
        trainer.train()
        append_result(trainer.config.run_dir, result(fid))
        append_result(trainer.config.run_dir, kid(0.0321))
        folders.append(trainer.config.run_dir)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "load_inception", lambda *_: PixelMeans())
        status = report.main([*map(str, folders), "--out", str(root / "out")])
    return root / "out", status


def test_the_page_holds_every_section_and_needs_no_network(made):
    out, status = made
    page = (out / "report.html").read_text()
    assert status == 1  # one folder could not be read, and it is named
    assert "none is no run" in page
    assert "The best run has FID 50.0" in page
    assert "below the pass mark of 60" in page
    assert "By its curves none of 2 ended near the Nash equilibrium" in page
    assert "FID 60.5" in page  # the MLP beside the CNN
    assert "0.03210 ± 0.00200 (42)" in page
    assert "Left out: " in page  # the digits of a run on other data than MNIST
    assert not re.search(r"(src|href|srcset)=\"(?!data:|#)", page)
    images = Images()
    images.feed(page)
    assert len(images.found) > 12
    assert all(len(image["alt"]) > 20 for image in images.found)


def test_the_markdowns_pictures_are_all_there(made):
    out, _ = made
    text = (out / "report.md").read_text()
    assert "| **0.03210** |" in text
    names = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert len(names) > 12
    assert all((out / name.replace("%3D", "=")).is_file() for name in names)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_opens_in_a_browser_without_errors(made, width, tmp_path):
    out, _ = made
    probe = """<script>addEventListener("load", () => document.title = JSON.stringify({
        images: document.images.length,
        broken: [...document.images].filter(i => !i.naturalWidth).length,
        overflow: document.documentElement.scrollWidth - innerWidth}))</script></body>"""
    page = tmp_path / "probe.html"
    page.write_text((out / "report.html").read_text().replace("</body>", probe))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900"]
    done = subprocess.run(
        [BROWSER, *flags, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120
    )
    assert ":CONSOLE" not in done.stderr
    found = re.search(
        r"<title>\{\"images\":(\d+),\"broken\":(\d+),\"overflow\":(-?\d+)", done.stdout
    )
    assert int(found[1]) > 12
    assert int(found[2]) == 0
    assert int(found[3]) <= 0


def test_all_runs_the_homeworks_grid_and_the_mlp_first(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(report.sweep, "main", lambda argv: calls.append(argv) or 0)
    argv = ["--all", "--quick", "--runs_dir", str(tmp_path), "--seeds", "2", "--beta1", "0.4"]
    assert report.main(argv) == 1  # nothing was trained, so there is nothing to report
    assert calls[0][:2] == ["--grid", "arch=mlp"]
    assert calls[1][:3] == ["--grid", "latent_dim=16,100", "hidden_dim=16,100"]
    for call in calls:
        assert call[-2:] == ["--beta1", "0.4"]
        assert call[call.index("--seeds") + 1] == "2"
        assert call[call.index("--num_training_steps") + 1] == "32"


def test_a_signal_stops_all_that_would_follow(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(report.sweep, "main", lambda argv: calls.append(argv) or 130)
    assert report.main(["--all", "--runs_dir", str(tmp_path)]) == 130
    assert len(calls) == 1


def test_a_folder_that_can_not_be_made_is_known_before_the_training(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(report.sweep, "main", lambda argv: pytest.fail("trained"))
    (tmp_path / "file").touch()
    assert report.main(["--all", "--out", str(tmp_path / "file" / "out")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.fixture
def without_extras(monkeypatch):
    """Reports without interpolation and digits, which take their time."""
    monkeypatch.setattr(report, "examine_paths", lambda *_: "not here")
    monkeypatch.setattr(report, "examine_digits", lambda *_: "not here")


def test_what_lies_beside_the_runs_is_no_problem_but_an_empty_folder_is(
    trained, without_extras, capsys
):
    runs = trained(50.0).parent
    (runs / "README.md").touch()
    quick = trained(9.0, runs_dir=str(runs / "quick"))
    everything = [str(quick), *map(str, runs.iterdir()), str(quick / ".." / quick.name)]
    for _ in range(2):  # the second time beside the report of the first
        assert report.main([*everything, "--out", str(runs / "report")]) == 0
        everything.append(str(runs / "report"))
    (runs / "empty").mkdir()
    assert report.main([*everything, str(runs / "empty"), "--out", str(runs / "report")]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(errors) == 1
    assert "an empty folder" in errors[0]
    text = (runs / "report" / "report.md").read_text()
    names = re.findall(r"^### (\S+)$", text, re.MULTILINE)
    assert len(set(names)) == 2  # one run each, though both folders have one name
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert len(set(pictures)) == len(pictures)


def test_a_full_disk_leaves_the_report_before(trained, without_extras, monkeypatch, capsys):
    run = trained(50.0)
    out = run.parent / "out"
    assert report.main([str(run), "--out", str(out)]) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lib.checkpoint.os.fsync", full)
    capsys.readouterr()
    assert report.main([str(run), "--out", str(out)]) == 1
    assert capsys.readouterr().err == "error: the report can't be used: No space left on device.\n"
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_folders_name_can_not_become_markdown():
    assert report.markdown("a<b>|c_") == r"a\<b\>\|c\_"


def test_an_unknown_flag_is_refused_with_status_2(capsys):
    with pytest.raises(SystemExit) as exit:
        report.main(["--al"])
    assert exit.value.code == 2
    assert "did you mean --all" in capsys.readouterr().err


def test_no_run_at_all_is_one_sentence(tmp_path, capsys):
    assert report.main(["--runs_dir", str(tmp_path)]) == 1
    assert "train one first" in capsys.readouterr().err


def test_a_torn_event_file_is_named(trained):
    folder = trained(50.0)
    path = next(folder.glob("events*"))
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(UserError, match="is torn after"):
        read_run(folder)


def test_an_event_file_that_grows_while_it_is_read_is_not_torn(trained, monkeypatch):
    folder = trained(50.0)
    reading = runlog.read_records

    def read_and_grow(path):
        yield from reading(path)
        with open(path, "ab") as file:
            file.write(b"the next record")

    monkeypatch.setattr(runlog, "read_records", read_and_grow)
    assert len(runlog.read_scalars(folder)["D(x)"]) == 2


def test_the_error_of_a_mean_is_that_of_several_values():
    several = runlog.mean_result("l1", torch.tensor([1.0, 3.0]), "")
    assert (several["value"], several["error"]) == (2, pytest.approx(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of a standard deviation of one value
        one = runlog.mean_result("l1", torch.tensor([3.0]), "")
    assert runlog.plain(one)["error"] is None
    assert "±" not in own_in_words(one)
