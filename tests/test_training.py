"""A run is a function of its settings, however often it is interrupted, and averages as it says."""

from __future__ import annotations

import math
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

from didae.randomness import seeded
from didae.storage import load_tensors
from didae.training import TrainingConfig, _batch_indices, _learning_rate, _update_average, train
from distributed_run import trained
from failures import one_line, run_python

SHORT = TrainingConfig(steps=7, batch_size=5, checkpoint_every=3, ema_decay=0.5)
DATA = torch.linspace(-1, 1, 24).reshape(12, 2)


def model() -> nn.Module:
    with seeded(3):
        return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2))


def loss(network: nn.Module, indices: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    x = DATA[indices]
    return (network(x + torch.randn(x.shape, generator=generator)) - x).pow(2).mean()


def weights(network: nn.Module) -> torch.Tensor:
    return torch.cat([value.flatten() for value in network.state_dict().values()])


def plain() -> tuple[torch.Tensor, list[float]]:
    network = model()
    history = train(network, loss, 12, SHORT)
    return weights(network), history


def resumed(folder: Path) -> tuple[torch.Tensor, list[float]]:
    network = model()
    history = train(network, loss, 12, SHORT, folder)
    return weights(network), history


def same(first: tuple[torch.Tensor, list[float]], second: tuple[torch.Tensor, list[float]]) -> bool:
    return torch.equal(first[0], second[0]) and first[1] == second[1]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("step", range(7))
def test_an_interrupt_in_the_loss_changes_nothing(step: int, error: type, tmp_path: Path):
    calls = iter(range(100))

    def interrupted(*arguments):
        if next(calls) == step:
            raise error
        return loss(*arguments)

    with pytest.raises(error):
        train(model(), interrupted, 12, SHORT, tmp_path)
    assert same(resumed(tmp_path), plain())


@pytest.mark.parametrize("step", range(7))
def test_an_interrupt_while_the_weights_change_is_not_saved(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real, calls = torch.optim.AdamW.step, iter(range(100))

    def interrupted(optimiser, *arguments):
        real(optimiser, *arguments)
        if next(calls) == step:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(model(), loss, 12, SHORT, tmp_path)
    assert same(resumed(tmp_path), plain())


def test_a_killed_process_changes_nothing(tmp_path: Path):
    code = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("this", {__file__!r})
this = module_from_spec(spec)
spec.loader.exec_module(this)
calls = iter(range(100))
def killed(*arguments):
    if next(calls) == 5:
        os.kill(os.getpid(), {int(signal.SIGKILL)})
    return this.loss(*arguments)
this.train(this.model(), killed, 12, this.SHORT, Path(sys.argv[1]))
"""
    process = run_python(code, tmp_path)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert same(resumed(tmp_path), plain())


def test_a_finished_run_is_not_repeated(tmp_path: Path):
    first = resumed(tmp_path)
    network = model()

    def never(*_):
        raise AssertionError

    history = train(network, never, 12, SHORT, tmp_path)
    assert same((weights(network), history), first)


@pytest.mark.parametrize("change", [{"seed": 1}, {"steps": 9}, {"learning_rate": 1e-3}])
def test_other_settings_are_refused(change: dict[str, float], tmp_path: Path):
    resumed(tmp_path)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    other = SHORT.model_copy(update=change)
    assert "other settings" in one_line(lambda: train(model(), loss, 12, other, tmp_path))
    assert "other settings" in one_line(lambda: train(model(), loss, 11, SHORT, tmp_path))
    wider = nn.Linear(2, 3)
    assert "other settings" in one_line(lambda: train(wider, loss, 12, SHORT, tmp_path))
    changed = lambda: train(model(), loss, 12, SHORT, tmp_path, data="other images")  # noqa: E731
    assert "from other images or labels" in one_line(changed)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


def test_how_often_it_is_saved_may_change(tmp_path: Path):
    resumed(tmp_path)
    train(model(), loss, 12, SHORT.model_copy(update={"checkpoint_every": 1}), tmp_path)


def test_a_broken_loss_names_the_step_and_keeps_the_good_weights(tmp_path: Path):
    calls = iter(range(100))

    def broken(*arguments):
        return loss(*arguments) * (math.nan if next(calls) == 4 else 1)

    assert "nan at step 4" in one_line(lambda: train(model(), broken, 12, SHORT, tmp_path))
    assert same(resumed(tmp_path), plain())


@pytest.mark.parametrize("decay", [0, 0.3, 0.999])
def test_the_average_against_a_written_out_one(decay: float):
    network, average = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    expected = average.weight.detach().double().clone()
    for step in range(30):
        with torch.no_grad():
            network.weight.copy_(torch.tensor([1.0, -2.0, 0.5]) * (step + 1))
            network.running_mean.fill_(step)
        _update_average(average, network, decay, step)
        used = min(decay, (1 + step) / (10 + step))
        expected = used * expected + (1 - used) * network.weight.detach().double()
    torch.testing.assert_close(average.weight.double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(average.running_mean, network.running_mean)
    assert torch.equal(average.num_batches_tracked, network.num_batches_tracked)
    if not decay:
        assert torch.equal(average.weight, network.weight)


@pytest.mark.parametrize(("examples", "batch"), [(12, 5), (7, 7), (3, 8), (10, 1)])
def test_every_epoch_has_every_example_once(examples: int, batch: int):
    steps = [_batch_indices(examples, batch, 0, step) for step in range(4 * examples)]
    assert all(indices.shape == (batch,) for indices in steps)
    epochs = torch.cat(steps)[: 4 * examples].reshape(4, examples)
    for epoch in epochs:
        assert epoch.sort().values.tolist() == list(range(examples))
    if examples > 3:
        assert not torch.equal(epochs[0], epochs[1])
        other = torch.cat([_batch_indices(examples, batch, 1, step) for step in range(examples)])
        assert not torch.equal(other[:examples], epochs[0])


def test_the_learning_rate_warms_up_and_falls_to_zero():
    config = TrainingConfig(steps=200, learning_rate=0.1)
    rates = [_learning_rate(config, step) for step in range(200)]
    assert rates[:10] == pytest.approx([0.01 * (step + 1) for step in range(10)])
    assert rates[105] == pytest.approx(0.05)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 1e-5


def test_training_fits_leaves_the_global_generator_and_ends_in_evaluation():
    network, state = model(), torch.get_rng_state()

    def clean(network, indices, _):
        return (network(DATA[indices]) - DATA[indices]).pow(2).mean()

    history = train(network, clean, 12, TrainingConfig(steps=60, batch_size=12, learning_rate=0.02))
    assert history[-1] < 0.1 * history[0]
    assert torch.equal(torch.get_rng_state(), state)
    assert not network.training


def test_a_watcher_sees_the_averages_at_checkpoints_and_changes_nothing(tmp_path: Path):
    seen: dict[int, torch.Tensor] = {}

    def watch(step: int, average: nn.Module) -> None:
        assert not average.training
        seen[step] = weights(average).clone()
        if step == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(model(), loss, 12, SHORT, tmp_path, watch=watch)
    assert list(seen) == [3, 6]
    network = model()
    history = train(network, loss, 12, SHORT, tmp_path, watch=watch)
    assert same((weights(network), history), plain())
    assert list(seen) == [3, 6, 7]
    assert torch.equal(seen[7], weights(network))
    assert not torch.equal(seen[6], seen[7])


def test_one_distributed_process_is_the_plain_run():
    pytest.importorskip("accelerate")
    network = model()
    history = train(network, loss, 12, SHORT.model_copy(update={"distributed": True}))
    assert same((weights(network), history), plain())


def test_two_processes_give_what_one_gives(tmp_path: Path):
    """Started by torchrun: without MPI, `accelerate launch` starts several on GPUs only."""
    pytest.importorskip("accelerate")
    script = Path(__file__).with_name("distributed_run.py")
    launch = "from torch.distributed.run import main; main()"
    done = run_python(launch, "--standalone", "--nproc_per_node", 2, script, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    one, ranks = (
        trained(None, distributed=False),
        [load_tensors(tmp_path / f"rank-{rank}.safetensors") for rank in range(2)],
    )
    for name, value in one.items():
        if name != "history":
            torch.testing.assert_close(ranks[0][name], value)
            assert torch.equal(ranks[0][name], ranks[1][name])
    # Each saw half of every batch: its losses are its own, and their means those of one process.
    history = torch.stack([rank["history"] for rank in ranks])
    assert (history[0] != history[1]).all()
    torch.testing.assert_close(history.mean(0), one["history"], atol=1e-6, rtol=1e-5)
    assert (tmp_path / "run").exists()
