"""Break formulas, controls, ceilings and costs one at a time, and see whether the suite notices.

    python tests/mutations.py [--json FILE] [WORD ...]

Every mutation is made in a copy of the repository, and the tests that should notice it run there;
words choose mutations whose names hold one of them. The exit code is the number of survivors.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
COPIED = ("src", "tests", "benchmarks", "docs", "conftest.py", "pyproject.toml", "README.md")
NOTICED, UNNOTICED = 1, 0
"""Exit codes of pytest: a test has failed, none has."""


class Mutation(NamedTuple):
    """A text that stands once in a file, what breaks it, and the tests that should notice."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTATIONS = (
    Mutation(
        "a reflection goes half the way",
        "src/didae/editing.py",
        "return -2 * strength * codes",
        "return -strength * codes",
        ("tests/test_editing.py", "tests/explainer/test_closed_loop.py"),
    ),
    Mutation(
        "a crossing forgets the sign of the slope",
        "src/didae/editing.py",
        "change = -strength * margin[:, None] / divisor",
        "change = -strength * margin[:, None] / divisor.abs()",
        ("tests/test_editing.py", "tests/explainer/test_closed_loop.py"),
    ),
    Mutation(
        "a joint crossing is not the shortest",
        "src/didae/editing.py",
        "share = slope * spread**2 /",
        "share = slope /",
        ("tests/test_editing.py", "tests/explainer/test_closed_loop.py"),
    ),
    Mutation(
        "a code outside the range is pulled back",
        "src/didae/editing.py",
        "down = torch.minimum(low, codes) - codes",
        "down = low - codes",
        ("tests/test_editing.py", "tests/explainer/test_closed_loop.py"),
    ),
    Mutation(
        "an amplification has no limit",
        "src/didae/editing.py",
        ".clamp(1, most).where",
        ".clamp_min(1).where",
        ("tests/test_editing.py", "tests/explainer/test_closed_loop.py"),
    ),
    Mutation(
        "Procrustes gives correlations for a rotation",
        "src/didae/dictionaries/procrustes.py",
        "return left @ right\n",
        "return cross / np.linalg.norm(cross, axis=1, keepdims=True)\n",
        ("tests/dictionaries/test_procrustes.py",),
    ),
    Mutation(
        "atoms are no dual basis",
        "src/didae/dictionaries/procrustes.py",
        "(rows / scales) @ axes.T, (rows * scales) @ axes.T",
        "(rows / scales) @ axes.T, (rows / scales) @ axes.T",
        ("tests/dictionaries/test_procrustes.py",),
    ),
    Mutation(
        "codes do not undo the length of atoms",
        "src/didae/dictionaries/procrustes.py",
        "return lengths * analysis, atoms / lengths",
        "return analysis, atoms / lengths",
        ("tests/dictionaries/test_procrustes.py",),
    ),
    Mutation(
        "the covariance is not shrunk",
        "src/didae/dictionaries/procrustes.py",
        "(1 - shrinkage) * variances.clip(0) + shrinkage * mean",
        "variances.clip(1e-12) + 0 * shrinkage * mean",
        ("tests/dictionaries/test_procrustes.py",),
    ),
    Mutation(
        "beyond the class holds the class",
        "src/didae/dictionaries/procrustes.py",
        "torch.stack([explained, values - explained], -1)",
        "torch.stack([explained, values], -1)",
        ("tests/dictionaries/test_guided.py",),
    ),
    Mutation(
        "singular vectors have any sign",
        "src/didae/dictionaries/variance.py",
        "return sizes, rows * _signs(rows)",
        "return sizes, rows",
        ("tests/dictionaries/test_svd.py",),
    ),
    Mutation(
        "ICA's atoms are its analysis",
        "src/didae/dictionaries/variance.py",
        "rotation @ (rows / deviation), rotation @ (rows * deviation)",
        "rotation @ (rows / deviation), rotation @ (rows / deviation)",
        ("tests/dictionaries/test_ica.py",),
    ),
    Mutation(
        "ICA's weakest direction goes first",
        "src/didae/dictionaries/variance.py",
        "np.argsort(-length[:, 0]",
        "np.argsort(length[:, 0]",
        ("tests/dictionaries/test_ica.py",),
    ),
    Mutation(
        "Euler takes its slope from the end",
        "src/didae/decoders/sampling.py",
        "velocity(x, now)\n    return x",
        "velocity(x, after)\n    return x",
        ("tests/decoders/test_sampling.py", "tests/decoders/test_base.py"),
    ),
    Mutation(
        "Heun takes the slope of the guess alone",
        "src/didae/decoders/sampling.py",
        "slope = (slope + velocity(guess, after)) / 2",
        "slope = velocity(guess, after)",
        ("tests/decoders/test_sampling.py", "tests/decoders/test_base.py"),
    ),
    Mutation(
        "an inversion is not corrected",
        "src/didae/decoders/sampling.py",
        "guess = guess + x - integrate(velocity, guess, (after, now))",
        "guess = integrate(velocity, x, (now, after))",
        ("tests/decoders/test_sampling.py", "tests/decoders/test_base.py"),
    ),
    Mutation(
        "DDIM stops before the image",
        "src/didae/decoders/sampling.py",
        "after = levels[i - 1] if i else 1.0",
        "after = levels[i - 1] if i else level",
        ("tests/decoders/test_sampling.py", "tests/decoders/test_base.py"),
    ),
    Mutation(
        "nothing is kept of what an inversion lost",
        "src/didae/decoders/base.py",
        "residual = images * 2 - 1 - self._integrate(noise, condition, sampler, invert=False)",
        "residual = torch.zeros_like(images)",
        ("tests/decoders/test_base.py", "tests/decoders/test_sampling.py"),
    ),
    Mutation(
        "fidelity is ignored",
        "src/didae/decoders/base.py",
        "torch.add(x, code.residual, alpha=fidelity)",
        "torch.add(x, code.residual)",
        ("tests/decoders/test_base.py", "tests/decoders/test_sampling.py"),
    ),
    Mutation(
        "the image foreseen may run away",
        "src/didae/decoders/base.py",
        "(state - (state - time * ahead).clamp(-1, 1)) / time",
        "(state - (state - time * ahead)) / time",
        ("tests/decoders/test_base.py", "tests/decoders/test_sampling.py"),
    ),
    Mutation(
        "a flow learns the way back",
        "src/didae/decoders/training.py",
        "mse_loss(velocity, noise - x)",
        "mse_loss(velocity, x - noise)",
        ("tests/decoders/test_training.py",),
    ),
    Mutation(
        "any help of its code makes a flip its own",
        "src/didae/explainer/sweep.py",
        "torch.where(part > 0, part / whole, 0.0)",
        "(part > 0).double()",
        ("tests/explainer/test_verified.py",),
    ),
    Mutation(
        "what works against a flip counts for its code",
        "src/didae/explainer/sweep.py",
        "whole = torch.maximum(moved[rows].double() @ weight, part)",
        "whole = (moved[rows].double() @ weight).abs()",
        ("tests/explainer/test_verified.py",),
    ),
    Mutation(
        "the slope of the guided filter ignores how colours vary together",
        "src/didae/decoders/locality.py",
        "spread = mean(products) - (centre[:, :, None] * centre[:, None]).flatten(1, 2)",
        "spread = mean(products)",
        ("tests/decoders/test_locality.py",),
    ),
    Mutation(
        "spill counts the edited code",
        "src/didae/explainer/sweep.py",
        "changes.abs().scatter(1, own, 0).amax(1)",
        "changes.abs().amax(1)",
        ("tests/explainer/test_explain.py", "tests/golden/test_golden.py"),
    ),
    Mutation(
        "a flip is verified whatever the code did",
        "src/didae/explainer/sweep.py",
        "shown = moved / requested >= self.config.realised_share",
        "shown = moved == moved",
        ("tests/explainer/test_explain.py", "tests/golden/test_golden.py"),
    ),
    Mutation(
        "a flip is verified whatever spilt",
        "src/didae/explainer/sweep.py",
        "((spill < self.config.spill_limit) | (due >= DUE))",
        "(spill > -1)",
        ("tests/explainer/test_explain.py", "tests/golden/test_golden.py"),
    ),
    Mutation(
        "one surrogate is enough",
        "src/didae/explainer/sweep.py",
        "verified & (flips == surrogates) & (surrogates > 0)",
        "verified & (flips > 0)",
        ("tests/explainer/test_explain.py", "tests/golden/test_golden.py"),
    ),
    Mutation(
        "a flip need not be verified to count as true",
        "src/didae/explainer/sweep.py",
        "verified & (flips == surrogates) & (surrogates > 0)",
        "(flips == surrogates) & (surrogates > 0)",
        ("tests/explainer/test_explain.py", "tests/golden/test_golden.py"),
    ),
    Mutation(
        "edits that cannot flip are drawn",
        "src/didae/explainer/sweep.py",
        "feasible = feasible & latent",
        "feasible = feasible & feasible",
        ("tests/explainer/test_explain.py", "tests/golden/test_golden.py"),
    ),
    Mutation(
        "a closed loop keeps what came apart",
        "src/didae/explainer/plan.py",
        "farther = _share(asked[rows], again[0]) > share[rows]",
        "farther = share[rows] < 1",
        ("tests/explainer/test_closed_loop.py",),
    ),
    Mutation(
        "a closed loop draws once",
        "src/didae/explainer/plan.py",
        "rows = rows[share[rows] < 1]",
        "rows = rows[share[rows] < 0]",
        ("tests/explainer/test_closed_loop.py",),
    ),
    Mutation(
        "a probe has no intercept",
        "src/didae/students/probe.py",
        "bias = target.mean(0) - torch.stack([mean @ column for column in weight.T.double()])",
        "bias = target.mean(0) - 0 * mean.sum()",
        ("tests/students/test_probe.py",),
    ),
    Mutation(
        "a probe has no ridge",
        "src/didae/students/probe.py",
        "gram += ridge * torch.eye(",
        "gram += 1e-12 * torch.eye(",
        ("tests/students/test_probe.py",),
    ),
    Mutation(
        "an image stands where the probe sees it",
        "src/didae/students/probe.py",
        "return torch.where((own > 0) == (margins > 0), own, margins)",
        "return own",
        ("tests/students/test_probe.py",),
    ),
    Mutation(
        "NAFR counts surrogates alone",
        "src/didae/metrics.py",
        'return flips, confirmed & flips if rule == "both" else confirmed',
        "return flips, confirmed",
        ("tests/metrics/test_flips.py",),
    ),
    Mutation(
        "NAFR asks any surrogate",
        "src/didae/metrics.py",
        "confirmed = votes.all(0) if",
        "confirmed = votes.any(0) if",
        ("tests/metrics/test_flips.py",),
    ),
    Mutation(
        "a bootstrap interval is too narrow",
        "src/didae/metrics.py",
        "[(1 - _LEVEL) / 2, (1 + _LEVEL) / 2]",
        "[(1 - _LEVEL), _LEVEL]",
        ("tests/metrics/test_bootstrap.py",),
    ),
    Mutation(
        "AGA counts images",
        "src/didae/metrics.py",
        "aga=float(np.mean(list(accuracies.values())))",
        "aga=float(right.mean())",
        ("tests/metrics/test_groups.py",),
    ),
    Mutation(
        "WGA is of the best group",
        "src/didae/metrics.py",
        "worst = min(accuracies",
        "worst = max(accuracies",
        ("tests/metrics/test_groups.py",),
    ),
    Mutation(
        "a Wilson interval lies off its middle",
        "src/didae/metrics.py",
        "centre = (share + z**2 / (2 * n))",
        "centre = (share + z**2 / n)",
        ("tests/metrics/test_groups.py",),
    ),
    Mutation(
        "a gain is of what was right",
        "src/didae/metrics.py",
        "return (after - before) / (1 - before)",
        "return (after - before) / before",
        ("tests/metrics/test_groups.py",),
    ),
    Mutation(
        "the gate trusts the upper bound",
        "src/didae/repair/gate.py",
        "low = gained - lost - NormalDist()",
        "low = gained - lost + NormalDist()",
        ("tests/repair/test_gate.py",),
    ),
    Mutation(
        "the gate adds no pseudo-count",
        "src/didae/repair/gate.py",
        "gained = (float(weight[after & ~before].sum()) + 1) / (n + 2)",
        "gained = float(weight[after & ~before].sum()) / n",
        ("tests/repair/test_gate.py",),
    ),
    Mutation(
        "the gate needs no counter-example",
        "src/didae/repair/gate.py",
        "(judged.any(1) | others).sum()) < FEWEST_EXAMPLES",
        "(judged.any(1) | others).sum()) < 0",
        ("tests/repair/test_gate.py",),
    ),
    Mutation(
        "no mistake needs to be mended",
        "src/didae/repair/gate.py",
        "mended < config.mended * made",
        "mended < 0",
        ("tests/repair/test_gate.py",),
    ),
    Mutation(
        "a ceiling has seen the images it is asked about",
        "src/didae/repair/gate.py",
        "learnt, here = fold != k,",
        "learnt, here = fold >= 0,",
        ("tests/repair/test_ceiling.py",),
    ),
    Mutation(
        "a repaired head has no ridge",
        "src/didae/repair/head.py",
        "penalty = ridge * torch.where(spread > 0, spread, 1.0)",
        "penalty = 1e-9 * torch.where(spread > 0, spread, 1.0)",
        ("tests/repair/test_head.py", "tests/repair/test_projection.py"),
    ),
    Mutation(
        "a projection moves the mean",
        "src/didae/repair/head.py",
        "+ (weight - projected) @ dictionary.mean.double()",
        "+ 0 * (weight - projected) @ dictionary.mean.double()",
        ("tests/repair/test_head.py", "tests/repair/test_projection.py"),
    ),
    Mutation(
        "images always count in full",
        "src/didae/repair/head.py",
        "return WEIGHTS[accuracies.index(max(accuracies))]",
        "return WEIGHTS[0]",
        ("tests/repair/test_weighing.py",),
    ),
    Mutation(
        "a repair does not calm the student",
        "src/didae/repair/cfkd.py",
        "if margin > CALM and",
        "if margin > 1e9 and",
        ("tests/repair/test_cfkd.py",),
    ),
    Mutation(
        "a spurious exchange changes the label",
        "src/didae/repair/cfkd.py",
        "data.labels[origins if keep_label else donors.flatten().cpu()]",
        "data.labels[donors.flatten().cpu()]",
        ("tests/repair/test_cfkd.py",),
    ),
    Mutation(
        "partners are of any class",
        "src/didae/repair/cfkd.py",
        "(labels != label).nonzero()[:, 0]",
        "(labels >= 0).nonzero()[:, 0]",
        ("tests/repair/test_cfkd.py",),
    ),
    Mutation(
        "bench square: NAFR by any judge",
        "benchmarks/didae_bench/square.py",
        '"nafr": flipped.all(0)',
        '"nafr": flipped.any(0)',
        ("benchmarks/tests/test_square.py",),
    ),
    Mutation(
        "bench square: the random control does not move",
        "benchmarks/didae_bench/square.py",
        "control(case.stray)",
        "control(0.0)",
        ("benchmarks/tests/test_square.py",),
    ),
    Mutation(
        "bench rivals: the random control goes .3 of the way",
        "benchmarks/didae_bench/explainers/didae.py",
        "way.norm(dim=1, keepdim=True))[:, None] * length",
        "way.norm(dim=1, keepdim=True))[:, None] * 0.3 * length",
        ("benchmarks/tests/test_rivals.py",),
    ),
    Mutation(
        "a backward pass is billed as 3",
        "benchmarks/didae_bench/explainers/base.py",
        "self.backward[rows] += 1",
        "self.backward[rows] += 3",
        (
            "benchmarks/tests/explainers/test_explainers.py",
            "benchmarks/tests/explainers/test_parts.py",
        ),
    ),
    Mutation(
        "bench rivals: a backward pass costs two forward ones",
        "benchmarks/didae_bench/rivals_table.py",
        "BACKWARD = 1.5",
        "BACKWARD = 2.0",
        ("benchmarks/tests/test_rivals.py",),
    ),
    Mutation(
        "bench rivals: speed ratios are upside down",
        "benchmarks/didae_bench/rivals_table.py",
        "[b / a for b, a in pairs]",
        "[a / b for b, a in pairs]",
        ("benchmarks/tests/test_rivals.py",),
    ),
    Mutation(
        "bench repair: the ceiling is CFKD",
        "benchmarks/didae_bench/repair.py",
        "ceiling = case.repair(biased, case.true_counterfactuals())",
        "ceiling = repaired",
        ("benchmarks/tests/test_repair_ceiling.py",),
    ),
    Mutation(
        "bench adversarial: an attack leaves its ball",
        "benchmarks/didae_bench/adversarial.py",
        "far = (radius[moving] / _norm(ascended).clamp_min(1e-12)).clamp_max(1)",
        "far = torch.ones_like(radius[moving])",
        ("benchmarks/tests/test_adversarial.py",),
    ),
    Mutation(
        "the realised share is of what was done",
        "benchmarks/didae_bench/metrics/truth.py",
        "(asked * got).sum() / (asked**2).sum()",
        "(asked * got).sum() / (got**2).sum()",
        ("benchmarks/tests/metrics/test_truth.py",),
    ),
    Mutation(
        "no metric is broken by an attack",
        "benchmarks/didae_bench/metrics/controls.py",
        "elif position >= NEAR:",
        "elif position >= 10 * NEAR:",
        ("benchmarks/tests/metrics/test_controls.py",),
    ),
)
"""No two stand for the same fault; each changes what the code gives."""


def outdated(root: Path = ROOT) -> list[str]:
    """Name the mutations whose text does not stand in its file exactly once, or without tests."""
    found: list[str] = []
    for mutation in MUTATIONS:
        file = root / mutation.file
        times = file.read_text(encoding="utf-8").count(mutation.old) if file.exists() else 0
        lost = [test for test in mutation.tests if not (root / test).exists()]
        if times != 1 or lost or mutation.old == mutation.new:
            why = f"{', '.join(lost)} is gone" if lost else f"stands {times} times"
            found.append(f"{mutation.name}: {mutation.old.strip()!r} in {mutation.file}: {why}")
    return found


def tested(root: Path, tests: tuple[str, ...]) -> int:
    """Run tests of a copy of the repository, up to the first that fails; give the exit code."""
    paths = (root / "src", root / "benchmarks")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    return subprocess.run(
        command, cwd=root, env=environment, capture_output=True, check=False
    ).returncode


def survey(chosen: list[Mutation], root: Path) -> dict[str, str]:
    """Say of every mutation whether it was caught or survived."""
    found: dict[str, str] = {}
    width = max(len(mutation.name) for mutation in chosen)
    for mutation in chosen:
        file = root / mutation.file
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
        code = tested(root, mutation.tests)
        file.write_text(text, encoding="utf-8")
        words = {NOTICED: "caught", UNNOTICED: "survived"}
        found[mutation.name] = words.get(code, f"not tested (pytest ends with {code})")
        print(f"{mutation.name:<{width}}  {found[mutation.name]}", flush=True)
    return found


def main() -> int:
    """Run all mutations, or those named; give the number of those that were not caught."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("words", nargs="*", help="of the names of the mutations to make")
    parser.add_argument("--json", type=Path, help="gets name -> what became of it")
    given = parser.parse_args()
    lost = outdated()
    if lost:
        sys.exit("\n".join(["tests/mutations.py no longer fits:", *lost]))
    every = [m for m in MUTATIONS if not given.words or any(w in m.name for w in given.words)]
    with TemporaryDirectory() as folder:
        root = Path(folder)
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, root / name)
        if tested(root, tuple(dict.fromkeys(test for m in every for test in m.tests))):
            sys.exit("a test fails without any mutation: mend that first")
        found = survey(every, root)
    caught = sum(word == "caught" for word in found.values())
    print(f"caught: {caught} of {len(found)}")
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return len(found) - caught


if __name__ == "__main__":
    sys.exit(main())
