"""The report's tables of scores, and what they say: FID, KID, others, effects of settings."""

import statistics

from lib.results import Result, format_drawing
from scripts._report.blocks import Block, Heading, Pictures, Table, Text, say
from scripts._report.groups import HIDDEN, Effect, Group, effects, label, seed_spread, varying
from scripts._report.plots import fid_plot

PASS_MARK = 60.0  # the homework's, for the best of its four runs
HOMEWORK = ("latent_dim", "hidden_dim", *HIDDEN)


def counted(n: int, word: str) -> str:
    return f"{n} {word}{'s' * (n != 1)}"


def fid(groups: list[Group]) -> list[Block]:
    """FIDs by settings, the lowest mean first, with their plot."""
    scored = sorted((g for g in groups if g.fids), key=lambda g: g.mean)
    names, heading = varying(scored), Heading("FID", "fid")
    without = [run.short for group in groups for run in group.runs if not run.fid]
    lack = f"Not scored at their last step by this protocol: {'; '.join(without)}." * bool(without)
    if not scored:
        return [heading, Text(lack, note=True)]
    rows = []
    for group in scored:
        sd = f"{statistics.stdev(group.fids):.1f}" if len(group.fids) > 1 else "one seed"
        each = [f"{with_error(run.fid, '.1f', '.1f')} ({run.config.seed})" for run in group.scored]
        counts = [str(len(group.fids)), f"{group.mean:.1f}", sd]
        rows.append([label(group, names), *counts, ", ".join(each)])
    head = ["settings", "seeds", "FID", "sd over seeds", "each run ± its error (seed)"]
    newest = scored[0].scored[0].fid
    floor, protocol = newest.get("floor"), newest["protocol"]
    marks = {"floor": floor} if floor else {}
    marks |= {"pass mark": PASS_MARK} if protocol == "homework" else {}
    note = f"{compared(newest)} {say('error')} {floor_note(newest) if floor else ''} {lack}"
    plot = Pictures([fid_plot(scored, names, marks)])
    return [heading, Table(head, rows, words=(0, 4), bold=2), plot, Text(note, note=True)]


def compared(result: Result) -> str:
    real, fake = (f"{result[n]:,}" if n in result else "?" for n in ("n_real", "n_fake"))
    return (
        f"Protocol {result['protocol']}, {result['precision']}: {real} real images of the"
        f" {result.get('split', '?')} split against {fake} generated{format_drawing(result)}."
    )


def floor_note(result: Result) -> str:
    of = result.get("floor_of") or "real against real"
    at = "half the counts: set too high" if "halves" in of else "the same counts"
    return f"Floor: {of} at {at}, {result['floor']:.2f}."


def with_error(result: Result, form: str, error_form: str) -> str:
    error = result.get("error")
    return f"{result['value']:{form}}" + ("" if error is None else f" ± {error:{error_form}}")


def other_scores(groups: list[Group]) -> list[Block]:
    """All but the FIDs above: a row a tag of TensorBoard's, a column a group that has any."""
    scored = [group for group in groups if any(run.others for run in group.runs)]
    if not scored:
        return []
    tags = dict.fromkeys(tag for group in scored for run in group.runs for tag in run.others)
    rows = [[tag, *(cell(group, tag) for group in scored)] for tag in tags]
    note = "At each run's last step. ± is the standard error of a score, sd the spread over seeds."
    table = Table(["score", *(label(group, varying(scored)) for group in scored)], rows)
    return [Heading("Other scores", "own"), table, Text(note, note=True)]


def cell(group: Group, tag: str) -> str:
    """Value ± error of one seed; mean, sd and number of several."""
    found = [run.others[tag] for run in group.runs if tag in run.others]
    if len(found) < 2:
        return with_error(found[0], ".4g", ".2g") if found else ""
    values = [float(result["value"]) for result in found]
    sd = f"sd {statistics.stdev(values):.2g}, {len(values)} seeds"
    return f"{statistics.fmean(values):.4g} ({sd})"


def effects_of(groups: list[Group]) -> list[Block]:
    """Differences in FID of one setting at a time; what they are worth beside the seeds' spread.

    Of the homework's settings, or if none of them varies of those that do.
    """
    changed = varying([group for group in groups if group.fids])
    others = () if {*HOMEWORK} & {*changed} else tuple(changed)
    usual = HOMEWORK[:2] if any("latent_dim" in g.settings for g in groups) else ("settings",)
    does = f"What {' and '.join(others or usual)} do{'es' * (len(others) == 1)}"
    found = effects(groups, others or HOMEWORK)
    if not found:
        return [Heading(does, "effects"), Text("No two scored runs differ in just one of these.")]
    rows, changes = [], {}
    for e in found:
        difference = {"value": e.difference, "error": e.standard_error}
        means = f"{e.means[0]:.1f} → {e.means[1]:.1f}"
        row = [e.factor, f"{e.before} → {e.after}", e.others, means]
        rows.append([*row, with_error(difference, "+.1f", ".1f")])
        changes.setdefault(in_words(e), []).append(e)
    table = Table(["changed", "from → to", "at", "FID", "difference"], rows, (0, 1, 2), bold=4)
    sentences = [mean_effect(change, same) for change, same in changes.items()]
    reasons = [say(f) for f in HOMEWORK[:2] if f in {e.factor for e in found}]
    sentences += [on_the_spread(groups), *reasons]
    return [Heading(does, "effects"), table, *map(Text, sentences)]


def in_words(e: Effect) -> str:
    """Name the change: a number is raised, a word or a switch takes the place of another."""
    numbers = {type(e.before), type(e.after)} <= {int, float}
    return f"Raising {e.factor}" if numbers else f"{e.factor} {e.after} instead of {e.before}"


def mean_effect(change: str, same: list[Effect]) -> str:
    mean = statistics.fmean(e.difference for e in same)
    over = f"on average over {counted(len(same), 'comparison')}"
    if mean == 0:
        return f"{change} leaves the FID as it is {over}."
    mixed = ", but not in all of them" * (len({e.difference < 0 for e in same}) > 1)
    way = "lowers" if mean < 0 else "raises"
    said = f"{change} {way} the FID by {abs(mean):.1f} {over}{mixed}."
    if any(e.standard_error is None for e in same):
        return said
    sure = sum(abs(e.difference) > 2 * e.standard_error for e in same)
    return f"{said} {sure} of {len(same)} differ by more than twice the standard error."


def on_the_spread(groups: list[Group]) -> str:
    if not (spread := seed_spread(groups)):
        return say("one seed")
    sd, several, degrees = spread
    settings, degrees = counted(several, "setting"), counted(degrees, "degree")
    return say("spread", sd=sd, settings=settings, degrees=degrees)
