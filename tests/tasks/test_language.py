"""Language models: what they may see, how they score, and rules measured on them."""

import math
from pathlib import Path

import pytest
import torch

from optevolve.compile import build
from optevolve.config import Protocol, Schedule
from optevolve.errors import TaskError
from optevolve.library import ZOO
from optevolve.records import Job, Split, Status
from optevolve.surrogate import measure
from optevolve.tasks import check_task, load
from optevolve.training import evaluate, train

BRIEF = Protocol(
    learning_rates=(1e-2,),
    first_learning_rates=(1e-2,),
    trial_steps=10,
    full_steps=60,
    trial_schedule="compressed",
    epoch_steps=30,
    trial_epoch_steps=10,
    schedule=Schedule(warmup=0.1),
)
SMALL_PTB = "ptb-lstm@width=16,layers=1,context=8,batch_size=8,dropout=0"
SMALL_GPT = "text-gpt@width=16,depth=1,heads=2,context=16,batch_size=8"


@pytest.fixture
def ptb(data_folder: Path) -> Path:
    """A language of eight words in which each is followed by the next."""
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven"]
    for split, count in (("train", 200), ("valid", 20), ("test", 20)):
        lines = [" ".join(words[(start + place) % 8] for place in range(12)) for start in range(count)]
        (data_folder / f"ptb.{split}.txt").write_text("\n".join(lines))
    return data_folder


def test_a_rule_is_measured_on_penn_treebanks_layout(ptb: Path) -> None:
    job = Job("one", str(ZOO["adam"].rule), SMALL_PTB, BRIEF, seed=0)
    outcome = measure(job)
    assert outcome.status == Status.COMPLETED, outcome.reason
    assert outcome.fitness is not None
    assert outcome.fitness > -1.8 > -math.log(10)  # better than ten tokens drawn at random
    assert measure(job).fitness == outcome.fitness


def test_a_rule_is_measured_on_the_text_that_comes_with_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPTEVOLVE_DATA", raising=False)
    outcome = measure(Job("one", str(ZOO["adam"].rule), SMALL_GPT, BRIEF, seed=0))
    assert outcome.status == Status.COMPLETED, outcome.reason
    assert outcome.fitness is not None
    assert outcome.fitness > -4 > -math.log(256)


def test_untrained_models_know_nothing(ptb: Path) -> None:
    assert check_task(load(SMALL_PTB)).loss == pytest.approx(math.log(10), abs=0.1)
    assert check_task(load(SMALL_GPT)).loss == pytest.approx(math.log(256), abs=0.1)


@pytest.mark.parametrize("spec", [SMALL_PTB, SMALL_GPT])
def test_no_model_sees_what_it_has_to_predict(spec: str, ptb: Path) -> None:
    task = load(spec)
    torch.manual_seed(0)
    model = task.model().eval()
    x = next(iter(task.batches(Split.VALID, 0))).x[:1]
    changed = x.clone()
    changed[:, 5] = (x[:, 5] + 1) % 10
    before, after = model(x), model(changed)
    assert torch.allclose(before[:, :5], after[:, :5], atol=1e-6)
    assert not torch.allclose(before[:, 5:], after[:, 5:], atol=1e-6)


def test_the_score_is_minus_nats_per_token_over_the_whole_split(ptb: Path) -> None:
    task = load(SMALL_PTB)
    torch.manual_seed(0)
    model = task.model().eval()
    with torch.no_grad():
        losses = [float(task.loss(model, batch)) for batch in task.batches(Split.VALID, 0)]
    assert len(losses) == 1  # (one batch, so that the mean over batches is the mean over tokens)
    assert evaluate(task, model, Split.VALID).mean == pytest.approx(-losses[0], rel=1e-6)


def test_label_noise_sticks_to_the_tokens(ptb: Path) -> None:
    task = load(f"{SMALL_PTB}+label-noise:0.3")
    seen: dict[int, int] = {}
    for seed in (1, 2):
        for batch in task.batches(Split.TRAIN, seed):
            for place, token in zip(batch.numbers.flatten().tolist(), batch.y.flatten().tolist(), strict=True):  # type: ignore[attr-defined]
                assert seen.setdefault(place, token) == token
    clean = load(SMALL_PTB).corpus().splits[Split.TRAIN]  # type: ignore[attr-defined]
    wrong = sum(token != int(clean[place + 1]) for place, token in seen.items())
    assert 0.25 < wrong / len(seen) < 0.35


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("ptb-lstm@dropout=1", "from 0 to below 1; found 1"),
        ("ptb-lstm@layers=0", "'layers' of task PtbLstm is at least 1"),
        ("text-gpt@heads=3", "heads to divide width"),
    ],
)
def test_options_out_of_range_are_refused(spec: str, says: str) -> None:
    with pytest.raises(TaskError) as caught:
        load(spec)
    assert says in str(caught.value)


def test_real_penn_treebank(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its training file: nine tenths of the validation file are trained on."""
    if not (shared_data / "ptb" / "ptb.valid.txt").is_file():
        pytest.skip("no Penn Treebank in the data folder")
    monkeypatch.setenv("OPTEVOLVE_DATA", str(shared_data))
    task = load("ptb-lstm@width=16,layers=1,context=20,batch_size=8")
    rule = ZOO["adam"].rule
    curve = train(task, lambda parameters: build(rule, parameters, lr=0.01), [0.01] * 40, [0.9] * 40, seed=0, epoch_steps=20, split=None)
    assert curve.status == Status.COMPLETED
    assert curve.train_loss[1] < curve.train_loss[0] < 9
