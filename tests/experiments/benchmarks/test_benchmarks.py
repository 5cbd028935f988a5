"""What the benchmarks measure and write with; the flows they compare with need not be installed."""

import itertools
import json
import math
import re
import subprocess
import sys

import pytest
import torch

import experiments.benchmarks.__main__ as command
from contraflow import TRAINING
from contraflow.numerics.jacobian import batch_jacobian
from contraflow.runs.compare_page import summarise
from contraflow.runs.compare_plan import Budget, Comparison
from contraflow.runs.measurement import RunResult
from experiments.benchmarks import fair
from experiments.benchmarks.headline import headline
from experiments.benchmarks.pages import RESULTS, ROOT, fill, section
from experiments.benchmarks.results import course
from experiments.benchmarks.runs import trained
from experiments.benchmarks.timing import Timing
from experiments.paper.peak import allocations, held, peak


def test_fill_replaces_one_section(tmp_path):
    """Only what stands between the two comments changes, and a second run writes the same page."""
    page = tmp_path / "page.md"
    page.write_text("head\n<!-- a -->\nold\n<!-- /a -->\nmiddle\n<!-- b -->\nkept\n<!-- /b -->\ntail\n")
    for _ in range(2):
        fill(page, "a", "new")
        assert page.read_text() == ("head\n<!-- a -->\nnew\n<!-- /a -->\nmiddle\n<!-- b -->\nkept\n<!-- /b -->\ntail\n")


@pytest.mark.parametrize("content", ["", "<!-- a -->", "<!-- /a --><!-- a -->", "<!-- a --><!-- /a -->" * 2])
def test_fill_names_missing_and_doubled_comments(tmp_path, content):
    """Nothing is written to a page without a place for the text."""
    page = tmp_path / "page.md"
    page.write_text(content)
    with pytest.raises(ValueError, match=r"page\.md needs <!-- a -->"):
        fill(page, "a", "new")
    assert page.read_text() == content


def test_peak_counts_what_lives_at_once():
    """What was released no longer counts; what was there before does not; temporaries inside an operation do."""
    before = [torch.zeros(50_000)]

    def call():
        before.clear()
        a = torch.zeros(1000)
        del a
        b = torch.zeros(2000)
        return b.exp().sum()

    changes = allocations(call)
    assert peak(changes) == 4 * (2000 + 2000 + 1)
    assert sum(changes) == 0
    assert peak([]) == 0


def test_held_counts_parameters_buffers_and_state():
    """Weights twice over in Adam's state, besides the step counts."""
    module = torch.nn.BatchNorm1d(100, dtype=torch.float32)
    optimiser = torch.optim.Adam(module.parameters())
    module(torch.randn(4, 100)).sum().backward()
    optimiser.step()
    buffers = 4 * 200 + 8
    assert held(module, optimiser) == 3 * 4 * 200 + buffers + 2 * 4


def test_section_is_what_fill_wrote(tmp_path):
    """And it raises where fill does."""
    page = tmp_path / "page.md"
    page.write_text("head\n<!-- a -->\n<!-- /a -->\ntail\n")
    assert section(page, "a") == ""
    fill(page, "a", "one\n\ntwo")
    assert section(page, "a") == "one\n\ntwo"
    with pytest.raises(ValueError, match=r"page\.md needs <!-- b -->"):
        section(page, "b")


def test_list_of_measurements(capsys):
    """Every module that runs has a line, and nothing else; every section of the page has a module that fills it."""
    assert command.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = command.measurements()
    assert {"step", "memory", "quality", "scaling", "headline", "results", "fair"} <= set(found)
    assert not {"pages", "peer", "cases", "timing", "learners", "runs", "__main__"} & set(found)
    for name, line in found.items():
        assert line.strip(), name
        assert any(row.split()[:1] == [name] and row.endswith(line) for row in lines)
    page = (ROOT / "docs" / "generated" / "benchmarks.md").read_text()
    markers = set(re.findall(r"<!-- (\w+) -->", page))
    assert set(command.SECTIONS) == (markers - {"split"}) | {"headline"}
    assert set(command.SECTIONS) <= set(found)
    of_a_gpu = {f"cuda {name}{' tf32' * ('--tf32' in given)}" for name, given in command.CUDA}
    assert of_a_gpu == {one for one in re.findall(r"<!-- (cuda [\w ]+) -->", page) if "split" not in one}


def test_command_runs_one_all_or_refuses(monkeypatch, capsys):
    """Arguments reach the measurement; all run in turn though one fails; an unknown name is refused by name."""
    ran = []
    monkeypatch.setattr(command.runpy, "run_module", lambda name, **_: ran.append((name, sys.argv[1:])))
    monkeypatch.setattr(sys, "argv", ["benchmarks"])
    assert command.main(["step", "--rounds", "3"]) == 0
    assert ran == [("experiments.benchmarks.step", ["--rounds", "3"])]

    called = []

    def run(arguments, **_):
        called.append(arguments[1:])
        return subprocess.CompletedProcess(arguments, int("experiments.benchmarks.memory" in arguments))

    monkeypatch.setattr(command.subprocess, "run", run)
    assert command.main(["all"]) == 1
    assert called == [["-m", f"experiments.benchmarks.{name}"] for name in command.SECTIONS]
    assert "Failed: memory." in capsys.readouterr().err
    called.clear()
    assert command.main(["all", "--quick"]) == 1
    assert called == [["-m", f"experiments.benchmarks.{name}", *short] for name, short in command.SECTIONS.items()]

    called.clear()
    assert command.main(["all", "--cuda"]) == 1
    assert called == [["-m", f"experiments.benchmarks.{name}", *given] for name, given in command.CUDA]

    assert command.main(["stop"]) == 2
    assert command.main(["all", "--fast"]) == 2
    assert "stop: expected all" in capsys.readouterr().err


PAGE = """<!-- step -->
`python -m experiments.benchmarks.step`: float32 products on Abacus, 1 thread(s); torch. Seconds.

| flow | what | seconds | peer's best / this | time / floor |
|---|---|---|---|---|
| 2-D | contraflow, dual | 2.0 | 1.50 (1.40–1.60) | 1.7 |
| 2-D | contraflow, exact, kept | 1.5 | 2.00 (1.90–2.10) | 1.6 |
| 2-D | contraflow, kept, bfloat16 series | 1.0 | 3.00 (2.90–3.10) | 1.0 |
| 2-D | normflows, neumann | 3.0 | 9.00 (9.00–9.00) | 1.9 |
| table | contraflow, dual | 1.0 | 10.25 (10.00–10.50) | 1.9 |
<!-- /step -->
<!-- memory -->
`python -m experiments.benchmarks.memory` on Abacus, 1 thread(s); torch.

| blocks | ratio |
|---|---|
| 1 | 0.86 / 0.768 |

| scheme | all, MB | activations, MB |
|---|---|---|
| ours | 604.3 | 152.5 |
| ratio of dual to the peer's best | 0.32 | 0.113 |
<!-- /memory -->
<!-- throughput -->
`python -m experiments.benchmarks.throughput --runs RUNS` on Sliderule, 2 thread(s); torch.

| flow | sampling | seconds | ratio (quartiles) | residual |
|---|---|---|---|---|
| board-0 | contraflow | 0.2 | 1.0 (1.0–1.0) | 4e-05 |
| board-0 | normflows, same residual | 1.0 | 5.9 (5.8–6.0) | 3e-05 |
| board-0 | normflows, its default | 0.5 | 3.1 (3.1–3.1) | 2e-02 |
| digits-0 | normflows, same residual | 8.8 | 10.3 (8.0–8.4) | 2e-05 |

| flow | log p(x) | seconds | ratio (quartiles) | standard error | time to the same error, ratio |
|---|---|---|---|---|---|
| board-0 | contraflow | 0.1 | 1.0 (1.0–1.0) | 0 | exact |
| board-0 | normflows | 0.1 | 1.7 (1.7–1.7) | 0 | exact |
| digits-0 | contraflow | 2.4 | 1.0 (1.0–1.0) | 4.3 nats | 1.0 |
| digits-0 | normflows | 5.8 | 2.4 (2.4–2.5) | 6.5 nats | 5.5 |
<!-- /throughput -->
"""


def test_headline_reads_the_tables(tmp_path):
    """Ours in float32 at its fastest; the peer at the same residual and the same error; hardware and command."""
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    step, memory, throughput = headline(page).splitlines()[2:]
    assert step == (
        "- **A training step is 2.0 to 10.2 times as fast** (2-D: 2.00 by exact, kept; table: 10.25 by dual; "
        "Abacus, 1 thread(s); `python -m experiments.benchmarks.step`)"
    )
    assert memory.startswith(
        "- **A step at the paper's depth takes 0.32 of the peer's peak memory, and 0.11 of its activations**"
    )
    assert throughput == (
        "- **To the same error, samples are 5.9 to 10.3 times as fast, and log p(x) 1.7 to 5.5 times** "
        "(samples: board 5.9, digits 10.3; log p(x): board 1.7, digits 5.5; Sliderule, 2 thread(s); "
        "`python -m experiments.benchmarks.throughput --runs RUNS`)"
    )


def test_headline_names_what_it_cannot_read(tmp_path):
    """A section without command, a cell without number."""
    page = tmp_path / "page.md"
    page.write_text(
        PAGE.replace("`python -m experiments.benchmarks.step`: float32 products on Abacus", "Measured on Abacus")
    )
    with pytest.raises(ValueError, match="command and hardware, got 'Measured on Abacus"):
        headline(page)
    page.write_text(PAGE.replace("2.00 (1.90", "fast (1.90"))
    with pytest.raises(ValueError, match="begins with a number, got 'fast"):
        headline(page)


def test_readme_shows_the_ratios_of_the_page():
    """`python -m experiments.benchmarks.headline` was run after the page was written."""
    assert section(ROOT / "README.md", "speed") == headline(ROOT / "docs" / "generated" / "benchmarks.md")


def test_runs_are_trained_once(tmp_path, monkeypatch):
    """A missing run is trained with recipe and seed from its name; one that is there is not."""
    called = []

    def train(arguments, check):
        assert check
        called.append(arguments[2:])

    monkeypatch.setattr(subprocess, "run", train)
    folder = tmp_path / "two_spirals-7"
    assert trained(folder, steps=20) == folder
    assert called == [["contraflow", "train", "two_spirals", "--out", str(folder), "--seed", "7", "training.steps=20"]]
    folder.mkdir()
    (folder / "evaluation.json").write_text("{}")
    trained(folder)
    assert len(called) == 1


def test_slopes_of_a_power_law():
    """Exact for time = 3 size^1.5 in every round, whatever its speed; the error is that of a mean over rounds."""
    pytest.importorskip("normflows")
    from experiments.benchmarks.scaling import slope_with_error

    sizes = (2, 4, 8, 16)
    steady = [Timing(tuple(speed * 3 * n**1.5 for speed in (1, 2, 5))) for n in sizes]
    assert slope_with_error(sizes, steady) == pytest.approx((1.5, 0.0), abs=1e-12)
    rounds = [Timing(tuple(n**power for power in (1.0, 1.5, 2.0, 2.5))) for n in sizes]
    assert slope_with_error(sizes, rounds) == pytest.approx((1.75, math.sqrt(5 / 12) / 2))


@pytest.mark.parametrize(("power", "word"), [(0.9, "No slope"), (1.0, "No slope"), (1.1, "The slope")])
def test_what_grows_faster_is_named(power, word):
    """Against the products of the same sizes, which grow as the batch."""
    pytest.importorskip("normflows")
    from experiments.benchmarks.scaling import sweeps, verdict

    batch = sweeps()[0]
    steady = [Timing(tuple(speed * n**power for speed in (1.0, 1.1))) for n in batch.sizes]
    found = verdict([(batch, steady)])
    assert found.startswith(word)
    assert ("dense, batch" in found) == (word == "The slope")


def test_predicted_products_are_those_of_the_flow():
    """Multiplications counted by torch in one evaluation of all g, of every size of every sweep at its smallest."""
    pytest.importorskip("normflows")
    from torch.utils.flop_counter import FlopCounterMode

    from experiments.benchmarks.cases import bare_products
    from experiments.benchmarks.scaling import products, sweeps

    for sweep in sweeps():
        case = sweep.cases[0]
        step = bare_products(case.ours(TRAINING), case.data())
        with FlopCounterMode(display=False) as counter:
            step()
        assert counter.get_total_flops() == 2 * products(case), sweep


@pytest.mark.parametrize("features", [2, 6])
def test_peer_is_scored_exactly(features):
    """Against a dense Jacobian of the whole flow, in float32; in two dimensions against normflows itself too."""
    pytest.importorskip("normflows")
    pytest.importorskip("zuko")
    from experiments.benchmarks.learners import exact_log_prob
    from experiments.benchmarks.peer import peer_dense

    torch.manual_seed(0)
    flow = peer_dense(features, 3, (16, 16), "neumann", None)
    x = torch.randn(20, features)
    flow.log_prob(x)  # initialises ActNorm
    with torch.no_grad():
        for one in flow.parameters():
            one.add_(0.3 * torch.randn_like(one))
    flow.eval()
    with torch.no_grad():
        found = exact_log_prob(flow, x)
    z = flow.inverse(x)
    whole = torch.linalg.slogdet(batch_jacobian(flow.inverse, x)).logabsdet
    truth = flow.q0.log_prob(z) + whole
    torch.testing.assert_close(found, truth.detach(), atol=2e-4, rtol=1e-4)
    assert (whole.abs() > 0.05).all()
    if features == 2:
        torch.testing.assert_close(found, flow.log_prob(x).detach(), atol=1e-5, rtol=1e-5)


def test_quality_trains_and_keeps_its_runs(tmp_path, monkeypatch):
    """A Gaussian learns; scores are taken at the shares of the time; a run that is there is not trained again."""
    pytest.importorskip("normflows")
    pytest.importorskip("zuko")
    from experiments.benchmarks import quality
    from experiments.benchmarks.learners import Learner
    from experiments.benchmarks.quality import kept, train

    ticks = itertools.count()
    monkeypatch.setattr(quality.time, "process_time", lambda: next(ticks) / 512)  # so that a step takes 1/512 s
    shift = torch.nn.Parameter(torch.zeros(2))
    normal = torch.distributions.Normal(0.0, 1.0)
    updates = []

    def log_prob(x):
        return normal.log_prob(x - shift).sum(1)

    module = torch.nn.ParameterList([shift])
    learner = Learner(module, log_prob, log_prob, lambda: updates.append(module.training))
    data = 3 + torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    measured = []

    def measure():
        measured.append(True)
        return train(lambda: learner, data, 50, 0.1, 0.5, data[:100], (1 / 16, 1 / 2, 1))

    curve = kept(tmp_path / "deep" / "run.json", measure)
    again = kept(tmp_path / "deep" / "run.json", measure)
    assert measured == [True]
    assert again == curve
    assert curve.scores[0] < curve.scores[1] - 1
    assert curve.scores[-1] == pytest.approx(log_prob(data[:100]).mean().item())
    assert len(curve.final) == 100
    assert (shift - data.mean(0)).abs().max() < 0.2
    assert curve.steps == [16, 128, 256]
    assert curve.seconds == [1 / 32, 1 / 4, 1 / 2]
    assert updates == [True] * (curve.steps[-1] + 3)


def test_jacobians_of_trained_blocks_are_within_their_certified_bounds(monkeypatch):
    """A row of the comparison of activations, and its two last columns block by block."""
    pytest.importorskip("normflows")
    pytest.importorskip("zuko")
    from experiments.benchmarks import activations

    monkeypatch.setattr(activations, "_BLOCKS", 2)
    case = activations.Case("concatenated_sine", "orthogonal", preactivation=False)
    flow = case.flow()
    flow.log_prob(torch.randn(50, 2))
    used = activations.steepest(flow, torch.randn(50, 2))
    bounds = [block.bound for block in flow.certify().blocks]
    assert len(used) == 2
    assert all(0.01 < norm <= bound < 1 for norm, bound in zip(used, bounds, strict=True))
    monkeypatch.setattr(activations, "ROWS", 100)
    cells = activations.row(case, 0, 0.05).split("|")
    assert [cell.strip() for cell in cells[1:5]] == ["concatenated_sine", "orthogonal", "weight", "0"]


def test_quality_schedule():
    """Rises to one, falls to zero, and never leaves [0, 1]."""
    pytest.importorskip("normflows")
    pytest.importorskip("zuko")
    from experiments.benchmarks.quality import WARM_UP, schedule

    values = [schedule(k / 1000) for k in range(1001)]
    assert values[0] == 0.0
    assert max(values) == pytest.approx(1.0)
    assert values[int(1000 * WARM_UP)] == pytest.approx(1.0)
    assert values[-1] == pytest.approx(0.0, abs=1e-12)
    assert schedule(WARM_UP + (1 - WARM_UP) / 2) == pytest.approx(0.5)


def test_step_fills_both_tables(tmp_path, monkeypatch):
    """A tiny dense flow and a tiny image flow, ours beside the peer's: every candidate has a line in each table."""
    pytest.importorskip("normflows")
    from experiments.benchmarks import step

    tiny = {
        "2d": step.Case("plane", (2,), 2, (8, 8), 16),
        "image-128": step.Case("image", (1, 8, 8), (1, 1), 4, 3),
    }
    monkeypatch.setattr(step, "CASES", tiny)
    page = tmp_path / "page.md"
    page.write_text("<!-- step -->\n<!-- /step -->\n<!-- split -->\n<!-- /split -->\n")
    with torch.random.fork_rng():
        step.main(["--rounds", "2", "--cases", *tiny, "--page", str(page)])
    text = page.read_text()
    for name in ("plane", "image"):
        lines = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
        assert sum("contraflow, kept |" in line for line in lines) == 2
        assert sum("normflows" in line for line in lines) == (4 if name == "plane" else 3)
    assert "nan" not in text
    assert "float32 products" in text


def test_operations_and_flops_of_a_product():
    """Two flops a multiplication and addition; a transposed view is no operation."""
    pytest.importorskip("normflows")
    from experiments.benchmarks.step import _Counter

    a, b = torch.ones(3, 5), torch.ones(7, 5)
    with _Counter() as counter:
        (a @ b.t()).exp()
    assert (counter.count, counter.flops) == (2, 2 * 3 * 5 * 7)


def test_the_papers_sizes_are_cases():
    """48 blocks of hidden width 512, batches of 64."""
    pytest.importorskip("normflows")
    from experiments.benchmarks.cases import CASES

    for name, event in (("mnist", (1, 28, 28)), ("cifar10", (3, 32, 32))):
        case = CASES[name]
        assert (case.event_shape, case.blocks, case.hidden, case.batch) == (event, (16, 16, 16), 512, 64)


def test_results_show_validation_on_the_way(tmp_path):
    """Of many validations about four, the last among them; of images and of tables."""
    for unit in ("nats", "bits_per_dim"):
        lines = [{"step": step} | ({f"validation {unit}": step / 8} if step % 2 == 0 else {}) for step in range(1, 17)]
        (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
        shown = ", ".join(f"{step / 8:.3f} after {step} steps" for step in (4, 8, 12, 16))
        assert course(tmp_path) == f"On validation rows: {shown}."


def fair_result(recipe, architecture, seed, value):
    """A run of the comparison, on rows that the true density gives -1 nat."""
    about = {"standard_error": 0.04, "unit": "nats", "rows": 100, "truth": -1.0, "parameters": 12, "steps": 7}
    cost = {"seconds_a_step": 0.5, "sampling_seconds": 2.0, "inverse_error": 1e-6, "learning_rate": 0.01}
    return RunResult(recipe=recipe, architecture=architecture, seed=seed, value=value, **about, **cost)


def test_fair_tables_show_means_errors_truth_and_failures():
    """Two recipes side by side, a failed run among them; one recipe from the best down, beside published values."""
    plan = Comparison(("moons", "rings"), ("nice", "planar"), Budget(seconds=3))
    scores = {("moons", "planar"): (-1.2, -1.4), ("moons", "nice"): (-1.1, -1.1), ("rings", "nice"): (-1.5, -1.7)}
    results = [fair_result(*key, seed, value) for key, both in scores.items() for seed, value in enumerate(both)]
    table = fair.matrix(plan, summarise(results)).splitlines()
    assert table[2].startswith("| true density | -1.000 | -1.000 |")
    assert table[3] == "| `nice` | -1.100 ± 0.000 | -1.600 ± 0.100 | 12 | 0.5 | 2 | 1e-06 |"
    assert table[4] == "| `planar` | -1.300 ± 0.100 | failed | 12 | 0.5 | 2 | 1e-06 |"
    rows = fair.single(summarise(results[:4]), {"planar": "0.3"}).splitlines()
    assert [row.split("|")[1:4] for row in rows[2:4]] == [
        [" `nice` ", " -1.100 ± 0.040 ± 0.000 ", " – "],
        [" `planar` ", " -1.300 ± 0.040 ± 0.100 ", " 0.3 "],
    ]
    command = fair.command(plan)
    assert "contraflow compare moons,rings --seconds 3 --seeds 2" in command
    assert "--architectures nice,planar" in command


def test_every_fair_table_has_its_place():
    """A section of docs/generated/results.md for each."""
    for name in fair.TABLES:
        assert section(RESULTS, f"fair {name}")
