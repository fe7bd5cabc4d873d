"""The report: what it concludes from made results, foreign files, and its page in a browser."""

import errno
import io
import json
import re
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TINY, PixelMeans
from PIL import Image

from lib.results import append_result
from main import build_dcgan
from scripts import doctor, report
from scripts._figures import file_name
from scripts._report import answers, page
from scripts._report.blocks import Fold, Heading, Items, Picture, Pictures, Table, Text, to_html
from scripts._report.blocks import to_markdown as markdown
from scripts._report.groups import effects, group_runs, label, name_runs, seed_spread, varying
from scripts._report.plots import curve, enlarged
from scripts._report.runs import of_one_kind, read_run, score_runs
from scripts._report.scores import effects_of, fid, other_scores
from systems.dcgan import DCGANConfig

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
STEPS = {"num_training_steps": 2, "logging_steps": 1, "saving_steps": 1}


def result(value: float, step: int = 2, protocol: str = "homework", **changes) -> dict:
    counts = {"n_real": 3000, "n_fake": 3000, "split": "train", "device": "cpu, 1 threads"}
    made = {"metric": "fid", "value": value, "error": 0.5, "floor": 3.8, "protocol": protocol}
    return made | counts | {"precision": "fp32", "step": step} | changes


def kid(value: float, **changes) -> dict:
    return result(value, protocol="all", metric="kid", error=0.002, **changes)


UNITS = {"metric": "units", "value": 20, "error": None, "step": 2}


@pytest.fixture
def trained(tiny_config):
    """trained(50.0, latent_dim=5, ...) -> the folder of a run of 2 steps with that FID."""

    def make(value: float | None = None, *others: dict, **changes):
        trainer = build_dcgan(tiny_config(**(STEPS | changes)), torch.device("cpu"))
        trainer.train()
        for line in [result(value)] * (value is not None) + [*others]:
            append_result(trainer.config.run_dir, line)
        return trainer.config.run_dir

    return make


def read(*folders) -> list:
    runs = [read_run(folder) for folder in folders]
    score_runs(runs)
    return runs


def tables(blocks) -> list[list[list[str]]]:
    return [block.rows for block in blocks if isinstance(block, Table)]


def words(blocks) -> str:
    return "\n".join(block.text for block in blocks if isinstance(block, Text))


def fid_of(*folders) -> list:
    return fid(group_runs(read(*folders)))


# What is compared


def test_seeds_are_grouped_and_settings_are_told_apart(trained):
    groups = group_runs(read(trained(50.0), trained(54.0, seed=43), trained(30.0, latent_dim=7)))
    assert [g.fids for g in groups] == [[50.0, 54.0], [30.0]]
    assert groups[0].mean == 52.0
    assert seed_spread(groups) == (pytest.approx(8**0.5), 1, 1)
    assert [label(g, varying(groups)) for g in groups] == ["latent 5", "latent 7"]
    assert label(groups[0], varying(groups[:1])) == "latent 5, width 4"
    name_runs(groups)
    names = [r.short for g in groups for r in g.runs]
    assert names == ["latent 5, seed 42", "latent 5, seed 43", "latent 7"]


def test_an_effect_is_a_difference_in_one_setting_with_its_standard_error(trained):
    wide = {"generator_hidden_dim": 6, "discriminator_hidden_dim": 6}
    folders = [trained(50.0), trained(54.0, seed=43), trained(40.0, **wide)]
    folders.append(trained(20.0, latent_dim=7, **wide))  # differs from the first in two settings
    found = effects(group_runs(read(*folders)), ("latent_dim", "hidden_dim"))
    wanted = [("latent_dim", 5, 7, -20.0), ("hidden_dim", 4, 6, -12.0)]
    assert [(e.factor, e.before, e.after, e.difference) for e in found] == wanted
    said = words(effects_of(group_runs(read(*folders))))
    assert "hidden_dim lowers the FID by 12.0 on average over 1 comparison. 1 of 1 differ" in said
    assert found[1].standard_error == pytest.approx(8**0.5 * (1 / 2 + 1) ** 0.5)
    assert found[1].others == "latent 5"


def test_seeds_that_agree_are_a_spread_of_0_and_not_an_unknown_one(trained):
    folders = [trained(50.0), trained(50.0, seed=43), trained(50.0, discriminator_hidden_dim=6)]
    blocks = effects_of(group_runs(read(*folders)))
    (row,) = tables(blocks)[0]
    assert (row[0], row[-1]) == ("discriminator_hidden_dim", "+0.0 ± 0.0")  # one width alone
    assert "leaves the FID as it is" in words(blocks)
    assert "is 0.0 (from 1 setting with several seeds, 1 degree of" in words(blocks)


def test_runs_of_the_commonest_system_and_data_are_compared():
    kinds = [("vae", "m"), ("dcgan", "m"), ("dcgan", "f"), ("dcgan", "m")]
    runs = [
        SimpleNamespace(config=SimpleNamespace(model=m), trainer=SimpleNamespace(trained_on=d))
        for m, d in kinds
    ]
    assert of_one_kind(runs) == [runs[1], runs[3]]


def test_if_none_of_the_homeworks_settings_varies_the_effects_are_of_those_that_do(trained):
    folders = [trained(50.0), trained(40.0, d_steps=2)]
    blocks = effects_of(group_runs(read(*folders)))
    assert blocks[0].text == "What d_steps does"
    assert [row[-1] for row in tables(blocks)[0]] == ["-10.0"]
    folders += [trained(45.0, loss="hinge"), trained(65.0, spectral_norm=True)]
    said = words(effects_of(group_runs(read(*folders))))
    assert "loss hinge instead of bce lowers the FID by 5.0 on average over 1 comparison." in said
    assert "spectral_norm True instead of False raises" in said
    folders.append(trained(30.0, latent_dim=7))
    blocks = effects_of(group_runs(read(*folders)))
    assert blocks[0].text == "What latent_dim and hidden_dim do"
    assert [row[0] for row in tables(blocks)[0]] == ["latent_dim"]
    assert "7 to 13 (Pope et al. 2021" in words(blocks)  # a reason, and no other setting's
    assert "BigGAN" not in words(blocks)


SMOKE = result(9.0, protocol="smoke")


@pytest.mark.parametrize(
    ("lines", "values"),
    [
        ([[result(50.0)], [result(10.0, step=1), SMOKE]], [50.0, None]),
        ([[result(77.0)], [SMOKE], [SMOKE]], [77.0, None, None]),
        ([[SMOKE]], [9.0]),  # there is no other
        ([[result(50.0)], [result(40.0), result(float("nan"))]], [50.0, 40.0]),  # a null
        ([[result(5.0)], [result(6.0)], [result(1.0, weights_sha256="x")]], [5.0, 6.0, None]),
        ([[result(50.0), result(30.0, truncation=0.5)]], [50.0]),
    ],
)
def test_only_scores_of_the_last_step_by_the_common_protocol_count(trained, lines, values):
    runs = read(*(trained(None, *own, seed=seed) for seed, own in enumerate(lines)))
    assert [run.fid and run.fid["value"] for run in runs] == values


def test_scores_of_z_drawn_otherwise_are_told_apart(trained):
    whole, cut = UNITS, UNITS | {"value": 9, "truncation": 0.5}
    first = trained(50.0, whole, result(30.0, truncation=0.5), cut)
    second = trained(None, result(30.0, truncation=0.5), cut, seed=43)
    (run,) = read(first)
    found = {tag: result["value"] for tag, result in run.others.items()}
    assert found == {"units": 20, "fid_truncation_0.5": 30.0, "units_truncation_0.5": 9}
    assert list(read(second)[0].others) == ["units_truncation_0.5"]
    assert "truncated" not in words(fid_of(first))
    assert "3,000 generated from z truncated at 0.5." in words(fid_of(second))


def test_a_table_of_fids_and_one_of_the_scores_beside_them(trained):
    folders = [
        trained(50.0, kid(0.0301), kid(0.01, step=1)),  # of weights that it no longer has
        trained(54.0, kid(0.9), kid(0.0345), kid(0.9, precision="bf16"), seed=43),  # the newest
        trained(30.0, kid(0.02), result(29.0, protocol="10k"), UNITS, latent_dim=7),
        trained(d_steps=2),
    ]
    blocks = fid_of(*folders[:3])
    (rows,) = tables(blocks)
    assert rows == [
        ["latent 7", "1", "30.0", "one seed", "30.0 ± 0.5 (42)"],
        ["latent 5", "2", "52.0", "2.8", "50.0 ± 0.5 (42), 54.0 ± 0.5 (43)"],
    ]
    assert "Protocol homework, fp32: 3,000 real images of the train split" in words(blocks)
    blocks = other_scores(group_runs(read(*folders)))
    assert blocks[1].head == ["score", "latent 5", "latent 7"]
    assert tables(blocks) == [
        [
            ["kid", "0.0323 (sd 0.0031, 2 seeds)", "0.02 ± 0.002"],
            ["kid_bf16", "0.9 ± 0.002", ""],
            ["fid_10k", "", "29 ± 0.5"],
            ["units", "", "20"],
        ]
    ]


# Pictures and markup


def test_pictures_say_what_they_show_and_their_names_are_safe_short_and_their_own():
    assert "steps 10 to 20" in curve("run", "D(G(z1))", [(10, 0.5), (20, 0.1)]).alt
    assert curve("run", "$x_{$", [(1, float("nan")), (2, float("inf"))]).png  # no mathematics
    for top in (1.0, 15.0, 1234.5):  # nothing is cut off: no ink at the edges
        png = curve("run", "generator_loss", [(i, top * (i == 20)) for i in range(32)]).png
        ink = np.array(Image.open(io.BytesIO(png)).convert("RGBA"))[..., 3]
        edges = np.concatenate([ink[0], ink[-1], ink[:, 0], ink[:, -1]])
        assert not edges.any()
    grid = Image.fromarray(np.arange(90, dtype=np.uint8).reshape(9, 10))
    large = np.array(Image.open(io.BytesIO(enlarged(grid))))
    assert large.shape == (9 * 52, 520)
    assert (large == np.array(grid).repeat(52, 0).repeat(52, 1)).all()
    names = [file_name("a", tag) for tag in ("x y", "x?y", "../x", "<b>", "x" * 300, "x" * 301)]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[\w.=+-]{1,210}", name) for name in names)


def test_no_text_becomes_markup_in_either_form():
    evil = "<img src=x onerror=alert(1)>|*a*"
    picture = Picture("a.png", evil, b"")
    blocks = [Heading(evil, "id"), Heading(evil), Text(evil), Items([evil])]
    blocks += [Table([evil], [[evil]]), Fold("folded", [Text(evil)])]
    blocks += [Pictures([picture], (evil,)), Pictures([picture], (evil,), aside=True)]
    page, text = to_html(evil, blocks), markdown(evil, blocks)
    assert "<img src=x" not in page
    assert page.count("&lt;img src=x") == 14
    text = re.sub("</?(details|summary)>", "", text)
    assert not re.search(r"(?<!\\)[<|*]", text.replace("| ", "").replace(" |", ""))


@pytest.fixture(scope="module")
def made(tmp_path_factory, data_dir):
    """The folder of a report of a CNN run, an MLP run and a folder that is none; its status."""
    root = tmp_path_factory.mktemp("report")
    folders = [root / "none"]
    folders[0].mkdir()
    for arch, value in (("cnn", 50.0), ("mlp", 60.5)):
        where = {"data_dir": str(data_dir), "runs_dir": str(root)}
        trainer = build_dcgan(DCGANConfig(**(TINY | STEPS | where), arch=arch), torch.device("cpu"))
        trainer.train()
        append_result(trainer.config.run_dir, result(value))
        append_result(trainer.config.run_dir, kid(0.0321))
        folders.append(trainer.config.run_dir)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "load_inception", lambda *_: PixelMeans())
        status = report.main([*map(str, folders), "--out", str(root / "out")])
    return root / "out", status


def test_both_forms_hold_every_section_and_the_page_needs_no_network(made):
    out, status = made
    assert status == 1  # one folder could not be read, and it is named
    page, text = (out / "report.html").read_text(), (out / "report.md").read_text()
    for told in (
        "none is no run",
        "The best run has FID 50.0",
        "below the pass mark of 60",
        "By the curves none of 2 ended near the Nash equilibrium",
        "FID 60.5",  # the MLP beside the CNN
        "0.0321 ± 0.002",
        "Left out: ",  # the digits of a run on other data than MNIST
        "What arch does",
    ):
        assert told in page
        assert told in text
    assert not re.search(r"(src|href|srcset)=\"(?!data:|#)", page)
    alts = re.findall(r'<img [^>]*alt="([^"]*)"', page)
    assert len(alts) == page.count("<img") > 12
    assert all(len(alt) > 20 for alt in alts)
    names = re.findall(r"!?\[[^\]]+\]\(([^)]+)\)", text)
    assert len(names) > 12
    assert all((out / name).is_file() for name in names)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_opens_in_a_browser_without_errors(made, width, tmp_path):
    out, _ = made
    probe = """<script>addEventListener("load", () => document.title = [document.images.length,
        [...document.images].filter(i => !i.naturalWidth).length,
        document.documentElement.scrollWidth - innerWidth, Math.max(0,
        ...[...document.querySelectorAll(".wide")].map(t => t.scrollWidth - t.clientWidth))
        ])</script></body>"""
    page = tmp_path / "probe.html"
    page.write_text((out / "report.html").read_text().replace("</body>", probe))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900"]
    argv = [BROWSER, *flags, "--dump-dom", page.as_uri()]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert ":CONSOLE" not in done.stderr
    found = re.search(r"<title>(\d+),(\d+),(-?\d+),(\d+)<", done.stdout)
    images, broken, overflow, table_overflow = map(int, found.groups())
    assert images > 12
    assert broken == 0
    assert overflow <= 0
    assert table_overflow == 0 or width < 1200  # tables fit without scrolling sideways


def test_a_folder_that_is_no_run_is_one_sentence(tmp_path, capsys):
    assert report.main([str(tmp_path / "none")] * 2) != 0
    assert capsys.readouterr().err.count("\n") == 1


# Prose


def test_the_settings_alike_fold_away_the_defaults_apart(trained):
    runs = read(trained(50.0), trained(40.0, latent_dim=7))
    name_runs(group_runs(runs))
    _, table, folded = page.settings(runs)
    assert table.head[1:6] == ["latent", "G width", "D width", "batch", "steps"]
    found = [[row[0], row[-1]] for row in table.rows]
    assert found == [[f"latent {n}", f"dcgan-fashion-32px-z{n}-g4-d4-b4-s42"] for n in (5, 7)]
    chosen, usual = (text.text for text in folded.texts)
    assert chosen == "Chosen: dataset fashion."
    assert "learning_rate 0.0002, beta1 0.5" in usual


def test_the_interpolation_is_described_by_its_figures():
    digits = {"labels": [[3, 8, 8], [7, 7, 7]], "turn_to_other": 1.3}
    digits |= {"off_ends": 0.25, "off_between": 0.5}
    found = {"t": [-0.5, 0.0, 0.5, 1.0, 1.5], "digits": {"linear": digits, "spherical": digits}}
    found["change"] = {path: {"pixel": {"largest_to_mean": 2.4}} for path in found["digits"]}
    said = " ".join(answers.along("linear", found))
    assert "Linear. The path has jumps: the largest step of a pair is on average 2.4 times" in said
    assert "row by row (in brackets t of a change): 3 → 8 (0.25); 7." in said
    assert "1.3 times as far as one in which it stays: one digit morphs into the other" in said
    assert "50% of the frames between the ends look like no digit, and 25% of the ends" in said
    assert "what lies between is worse than the ends. At its middle the linear path's z" in said
    assert "short" not in " ".join(answers.along("spherical", found))
    found |= {"files": [], "images": 3, "pairs": 2, "seed": 0}
    said = words(answers.interpolation(found, "The run", SimpleNamespace(fid=result(50.0))))
    assert "here are some. Smooth is not yet good: the FID is 50.0" in said


def test_grain_is_the_power_of_fine_detail():
    pixels = torch.arange(16)
    fine = (255 * (pixels % 2)).to(torch.uint8).expand(3, 1, 16, 16)
    coarse = (127 + 100 * torch.cos(pixels * torch.pi / 4)).to(torch.uint8).expand(3, 1, 16, 16)
    assert answers.grain(fine) == pytest.approx(1)
    assert answers.grain(coarse) < 1e-3
    assert answers.grain(fine.transpose(2, 3)) == pytest.approx(1)


# The command


@pytest.fixture
def sweeps(monkeypatch):
    """The flags of each sweep that the report starts; .status is what they return."""
    calls = SimpleNamespace(argv=[], status=0)
    monkeypatch.setattr(report.sweep, "main", lambda a: calls.argv.append(a) or calls.status)
    return calls


def test_all_runs_the_homeworks_grid_and_the_mlp_first(sweeps, tmp_path, refusal):
    assert "give --all too" in refusal(report.main, "--seeds", "3")
    argv = ["--all", "--quick", "--runs_dir", str(tmp_path), "--seeds", "2", "--beta1", "0.4"]
    assert report.main(argv) == 1  # nothing was trained, so there is nothing to report
    mlp, grid = sweeps.argv
    assert mlp[:2] == ["--grid", "arch=mlp"]
    assert grid[:3] == ["--grid", "latent_dim=16,100", "hidden_dim=16,100"]
    for call in (mlp, grid):
        assert call[-2:] == ["--beta1", "0.4"]
        assert call[call.index("--seeds") + 1] == "2"
        assert call[call.index("--num_training_steps") + 1] == "32"


def test_a_dry_run_of_all_makes_no_report_and_a_signal_stops_all_that_would_follow(
    tmp_path, sweeps
):
    argv = ["--all", "--runs_dir", str(tmp_path / "runs"), "--dry_run"]
    assert report.main(argv) == 0
    assert [call[-1] for call in sweeps.argv] == ["--dry_run"] * 2
    assert not (tmp_path / "runs").exists()
    sweeps.status = 130
    assert report.main(argv) == 130
    assert len(sweeps.argv) == 3


def test_a_folder_that_can_not_be_made_is_known_before_the_training(sweeps, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert report.main(["--all", "--out", str(tmp_path / "file" / "out")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert not sweeps.argv


def test_an_unknown_flag_no_run_and_folders_of_runs_are_one_sentence(tmp_path, capsys):
    with pytest.raises(SystemExit):
        report.main([str(tmp_path), "--al"])
    assert "did you mean --all" in capsys.readouterr().err
    assert report.main(["--runs_dir", str(tmp_path)]) == 1
    assert "train one first" in capsys.readouterr().err
    for name in ("a", "b"):
        (tmp_path / name / "run").mkdir(parents=True)
        (tmp_path / name / "run" / "config.json").write_text("{}")
    folders = [str(tmp_path / "a"), str(tmp_path / "b")]
    for command in (report.main, doctor.main):
        assert command(folders) == 1
        assert "is a run: wanted folders of one run each" in capsys.readouterr().err


@pytest.fixture
def without_extras(monkeypatch):
    """Reports without interpolation and digits, which take their time."""
    monkeypatch.setattr(report, "examine", lambda *_: ["not here", "not here"])


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
    names = re.findall(r"^### (.+)$", text, re.MULTILINE)
    assert len(set(names)) == 2  # two runs of one folder name
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert len(set(pictures)) == len(pictures) - 1  # the best run's samples head the page too


def test_a_full_disk_leaves_the_report_before(trained, without_extras, monkeypatch, capsys):
    run = trained(50.0)
    out = run.parent / "out"
    assert report.main([str(run), "--out", str(out)]) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lib.files.os.fsync", full)
    capsys.readouterr()
    assert report.main([str(run), "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert re.fullmatch(rf"error: {out}/dcgan\S+ has no room .*\n", error)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_torn_picture_is_left_out_by_name_and_costs_nothing_else(trained, capsys):
    folder = trained(50.0)
    last = folder / "samples" / "samples-0000002.png"
    for size in (last.stat().st_size // 2, 0):
        last.write_bytes(last.read_bytes()[:size])
        assert [step for step, _ in read(folder)[0].samples] == [1]
        assert f"left out: {last} cannot be read" in capsys.readouterr().err


BAD_LINES = {
    "{}": "it has no metric",
    "[1]": "found no object",
    "\udcff\udcfe torn": "it is torn or no JSON",
    json.dumps({k: v for k, v in result(1.0).items() if k != "protocol"}): "no protocol",
    json.dumps(result(10**400)): "value is 1000",
    json.dumps(result(1.0, n_real=None)): "n_real is null, wanted a whole number",
    json.dumps(result(1.0, device={"a": 1})): "device is",
    json.dumps(result(1.0)).replace("1.0", "NaN"): "value is NaN, wanted a finite number",
    "[" * 100_000: "it is torn or no JSON",
}


def test_bad_lines_of_results_are_passed_over_by_name(trained, without_extras, capsys):
    folder, other = trained(50.0), trained(40.0, seed=43)
    with open(folder / "results.jsonl", "a", errors="surrogateescape") as file:
        file.write("\n".join(BAD_LINES) + "\n")
    out = folder.parent / "out"
    assert report.main([str(folder), str(other), "--out", str(out)]) == 0
    text, errors = (out / "report.md").read_text(), capsys.readouterr().err
    for number, said in enumerate(BAD_LINES.values(), 2):
        where = f"line {number} of {folder / 'results.jsonl'} is passed over: "
        assert where in text
        assert said in errors[errors.index(where) :].splitlines()[0]
    assert "**45.0** |" in text


def test_a_run_that_can_not_be_read_costs_no_other(trained, without_extras, capsys):
    good, bad, torn = trained(50.0), trained(40.0, seed=43), trained(30.0, seed=44)
    (bad / "config.json").write_text("[" * 100_000)
    events = next(torn.glob("events*"))
    events.write_bytes(events.read_bytes()[:-7])
    out = good.parent / "out"
    assert report.main([*map(str, (bad, torn, good)), "--out", str(out)]) == 1
    assert "is torn: bytes" in capsys.readouterr().err
    text = (out / "report.md").read_text()
    assert "can't be read as settings" in text
    assert "The best run has FID 50.0" in text
