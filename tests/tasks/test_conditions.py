"""Adverse conditions: what they change, what they leave alone, and that it is the same in every pass and process."""

import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from optevolve.compile import build
from optevolve.config import Protocol, Schedule
from optevolve.errors import TaskError
from optevolve.library import ZOO
from optevolve.records import Job, Split, Status
from optevolve.surrogate import measure
from optevolve.tasks import Batch, Task, check_task, load, spec_of
from optevolve.tasks.base import NumberedBatch
from optevolve.tasks.conditions import GradientNoise, Imbalance, LabelNoise, Rebatched, SparseGradients, Wrapper
from optevolve.tasks.examples import uniform
from optevolve.training import train


@dataclass(frozen=True)
class Numbers(Task):
    """Ten classes, 200 examples, each one number; batches of 16 without numbers or a batch size to set."""

    size: int = 200

    def model(self) -> nn.Module:
        return nn.Linear(1, 10)

    def batches(self, split: Split, seed: int) -> Iterator[Batch]:
        order = torch.randperm(self.size, generator=torch.Generator().manual_seed(seed)) if split == Split.TRAIN else torch.arange(50)
        for index in order.split(16):
            yield Batch(index[:, None].float(), index % 10)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return cross_entropy(model(batch.x / self.size), batch.y)


@dataclass(frozen=True)
class Regression(Numbers):
    def model(self) -> nn.Module:
        return nn.Linear(1, 1)

    def batches(self, split: Split, seed: int) -> Iterator[Batch]:
        yield Batch(torch.ones(8, 1), torch.ones(8, 1))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return mse_loss(model(batch.x), batch.y)


def labels(task: Task, seed: int, split: Split = Split.TRAIN) -> dict[int, int]:
    """Example → target over one pass of `Numbers`."""
    return {int(x): int(y) for batch in task.batches(split, seed) for x, y in zip(batch.x, batch.y, strict=True)}


def numbered(task: Task, seed: int) -> dict[int, int]:
    found = {}
    for batch in task.batches(Split.TRAIN, seed):
        assert isinstance(batch, NumberedBatch)
        assert batch.numbers is not None
        found.update(zip(batch.numbers.tolist(), batch.y.tolist(), strict=True))
    return found


def test_label_noise_moves_a_share_of_the_targets_and_always_the_same() -> None:
    task = LabelNoise(Numbers(size=4000), 0.2)
    first, second = labels(task, 1), labels(pickle.loads(pickle.dumps(task)), 2)
    assert first == second
    wrong = {x: y for x, y in first.items() if y != x % 10}
    assert 0.17 < len(wrong) / 4000 < 0.23
    shifts = torch.tensor([(y - x) % 10 for x, y in wrong.items()]).bincount(minlength=10)
    assert shifts[0] == 0
    assert (shifts[1:] > 50).all()  # 89 expected of each
    assert labels(task, 0, Split.VALID) == labels(task.task, 0, Split.VALID)
    assert labels(task, 0, Split.TEST) == labels(task.task, 0, Split.TEST)


def test_label_noise_of_zero_and_one() -> None:
    assert labels(LabelNoise(Numbers(), 0.0), 0) == labels(Numbers(), 0)
    assert all(y != x % 10 for x, y in labels(LabelNoise(Numbers(), 1.0), 0).items())


def test_label_noise_stays_with_an_example_however_it_is_augmented(data_folder: Path, write_images: Callable[..., Path]) -> None:
    write_images(data_folder, "train", levels=range(120))
    task = load("cifar10-convnet@augment=true,batch_size=16+label-noise:0.5")
    assert isinstance(task, LabelNoise)
    first, second = numbered(task, 1), numbered(task, 2)
    shared = first.keys() & second.keys()
    assert len(shared) > 80
    assert all(first[x] == second[x] for x in shared)
    assert 20 < sum(first[x] != x % 10 for x in shared) < 80


def test_imbalance_thins_the_classes_geometrically_and_keeps_the_same_examples() -> None:
    task = Imbalance(Numbers(size=20_000), 10.0)
    first = labels(task, 1)
    counts = torch.tensor(list(first.values())).bincount(minlength=10)
    expected = torch.tensor([2000 * 10 ** (-k / 9) for k in range(10)])
    assert ((counts - expected).abs() < 5 * expected.sqrt()).all()
    assert counts[0] > 1900
    second = labels(task, 2)
    assert len(first.keys() ^ second.keys()) < 32  # but for the last batch, which is incomplete and left out
    assert {len(batch.y) for batch in task.batches(Split.TRAIN, 0)} == {16}
    assert labels(task, 0, Split.VALID) == labels(task.task, 0, Split.VALID)


def test_the_batch_size_is_set_where_there_is_one_and_batches_regrouped_where_there_is_none() -> None:
    inside = load("digits@width=2+label-noise:0.1+batch:100")
    assert spec_of("digits+batch:7") == "digits+batch:7"
    assert isinstance(inside, LabelNoise)
    assert inside.task == load("digits@width=2,batch_size=100")
    task = Rebatched(Numbers(), 60)
    assert [len(batch.y) for batch in task.batches(Split.TRAIN, 0)] == [60, 60, 60]
    assert [len(batch.y) for batch in Rebatched(Numbers(), 500).batches(Split.TRAIN, 0)] == [200]
    assert [len(batch.y) for batch in Rebatched(Numbers(), 1).batches(Split.TRAIN, 0)] == [1] * 200
    assert labels(Rebatched(Numbers(), 40), 3) == labels(Numbers(), 3)
    assert [len(batch.y) for batch in task.batches(Split.VALID, 0)] == [16, 16, 16, 2]


def gradients(task: Task, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    model = task.model()
    task.loss(model, next(iter(task.batches(Split.TRAIN, 0)))).backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


def test_gradient_noise_is_relative_and_follows_the_seed() -> None:
    clean, noisy = gradients(load("logreg-digits")), gradients(load("logreg-digits+gradient-noise:0.5"))
    noise = (noisy - clean)[:640]  # of the weights, which come first
    assert float(noise.std() / clean[:640].square().mean().sqrt()) == pytest.approx(0.5, rel=0.1)
    assert abs(float(noise.mean())) < 0.1 * float(noise.std())
    assert torch.equal(noisy, gradients(load("logreg-digits+gradient-noise:0.5")))
    assert not torch.equal(noisy, gradients(load("logreg-digits+gradient-noise:0.5"), seed=1))


def test_sparse_gradients_keep_a_share_unchanged() -> None:
    clean, sparse = gradients(load("mlp-moons")), gradients(load("mlp-moons+sparse-gradients:0.9"))
    kept = sparse != 0
    assert torch.equal(sparse[kept], clean[kept])
    assert float(kept.sum() / (clean != 0).sum()) == pytest.approx(0.1, abs=0.04)


def test_masks_are_drawn_anew_at_every_step() -> None:
    task = load("mlp-moons+sparse-gradients:0.5")
    model, batch = task.model(), next(iter(task.batches(Split.TRAIN, 0)))
    seen = []
    for _ in range(2):
        model.zero_grad()
        task.loss(model, batch).backward()
        seen.append(torch.cat([(parameter.grad != 0).flatten() for parameter in model.parameters() if parameter.grad is not None]))
    assert not torch.equal(*seen)


def test_wrapped_tasks_are_measured_like_any_other() -> None:
    spec = "digits@width=8+label-noise:0.2+gradient-noise:0.1+imbalance:4+sparse-gradients:0.5+batch:32"
    short = Protocol(
        learning_rates=(1e-2,),
        first_learning_rates=(1e-2,),
        trial_steps=20,
        full_steps=150,
        trial_schedule="compressed",
        epoch_steps=50,
        trial_epoch_steps=20,
        first_floor=0.0,
        floor=0.0,
        schedule=Schedule(warmup=0.1),
    )
    job = Job("one", str(ZOO["adam"].rule), spec, short, seed=0)
    first, second = measure(job), measure(job)
    assert first.status == Status.COMPLETED, first.reason
    assert first.fitness == second.fitness
    assert first.fitness is not None
    assert first.fitness > 0.4
    assert [curve.train_loss for curve in first.curves] == [curve.train_loss for curve in second.curves]


def test_training_sees_what_the_wrapper_does() -> None:
    def losses(spec: str) -> tuple[float, ...]:
        rule = ZOO["adam"].rule
        return train(
            load(spec), lambda parameters: build(rule, parameters, lr=0.01), [0.01] * 30, [0.9] * 30, seed=0, epoch_steps=10
        ).train_loss

    clean = losses("mlp-moons")
    for wrapper in ("label-noise:0.3", "gradient-noise:0.5", "sparse-gradients:0.9", "imbalance:5", "batch:16"):
        assert losses(f"mlp-moons+{wrapper}") != clean


def test_specs_with_wrappers_are_read_and_written() -> None:
    task = load("digits@width=4+label-noise:0.2+gradient-noise:1e-1", {"batch_size": 8})
    assert task == GradientNoise(LabelNoise(load("digits@width=4,batch_size=8"), 0.2), 0.1)
    assert hash(task) == hash(load("digits@batch_size=8,width=4+label-noise:0.2+gradient-noise:0.1"))
    assert spec_of("digits@width=4+label-noise:0.2", {"batch_size": 8}) == "digits@batch_size=8,width=4+label-noise:0.2"
    assert load("quadratics@condition=1e+2+gradient-noise:0.1") == GradientNoise(load("quadratics@condition=100"), 0.1)
    assert load("digits+sparse-gradients:0.5").summary == load("digits").summary
    assert load("digits+sparse-gradients:0.5").floors == load("digits").floors
    assert load("digits+label-noise:0.5").floors is None


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("digits+lable-noise:0.2", "Unknown wrapper 'lable-noise' of task 'digits'. Did you mean 'label-noise'"),
        ("digits+label-noise", "a wrapper takes a value, as in digits+label-noise:0.2"),
        ("digits+label-noise:much", "The value of wrapper 'label-noise' is a number; found 'much'"),
        ("digits+label-noise:1.5", "from 0 to 1; found 1.5"),
        ("digits+gradient-noise:-1", "at least 0; found -1"),
        ("digits+gradient-noise:nan", "found nan"),
        ("digits+imbalance:0.5", "at least 1; found 0.5"),
        ("digits+batch:0", "at least 1; found 0"),
        ("digits+batch:2.5", "a whole number; found '2.5'"),
        ("quadratics+batch:8", "needs a task with examples; Quadratics is a function without any"),
        ("rosenbrock+label-noise:0.1", "needs a task with examples"),
    ],
)
def test_a_wrong_wrapper_says_what_is_wrong(spec: str, says: str) -> None:
    with pytest.raises(TaskError) as caught:
        load(spec)
    assert says in str(caught.value)


def test_targets_that_are_no_classes_are_refused_before_a_search() -> None:
    for kind in (LabelNoise, Imbalance):
        with pytest.raises(TaskError, match=r"class numbers \(integers\); found torch.float32"):
            check_task(kind(Regression(), 1.0))


@pytest.mark.parametrize("kind", [LabelNoise, GradientNoise, Imbalance, SparseGradients, Rebatched])
def test_ones_own_task_can_be_wrapped(kind: type[Wrapper]) -> None:
    assert check_task(kind(Numbers(), 1.0)).parameters == 20


def test_numbers_drawn_for_examples_are_uniform_and_streams_independent() -> None:
    import numpy as np

    keys = np.arange(20_000, dtype=np.uint64)
    one, two = uniform(keys, 0), uniform(keys, 1)
    assert one.min() >= 0
    assert one.max() < 1
    assert np.histogram(one, 20, (0, 1))[0] == pytest.approx(1000, abs=160)
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.03
    assert abs(np.corrcoef(one[1:], one[:-1])[0, 1]) < 0.03
