"""Config as text: what is written is read back, presets are sound, and every mistake is one clear sentence."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optevolve.config import FAST, Compute, EliminationRound, Evaluation, FinalTask, Protocol, RunConfig, Schedule, Search, Stage
from optevolve.config_text import (
    PRESETS,
    apply_settings,
    assemble,
    checked,
    difference,
    from_toml,
    load_config,
    on_device,
    preset,
    to_toml,
    with_task,
)
from optevolve.errors import ConfigError
from optevolve.final_tasks import final_tasks

QUICK, PAPER = preset("quick"), preset("paper")
counts = st.integers(1, 10**6)
rates = st.lists(st.floats(1e-30, 1e6), min_size=1, max_size=4, unique=True).map(tuple)
texts = st.text(st.characters(codec="utf-8"), max_size=12)
options = st.dictionaries(
    texts.filter(bool),
    st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False, allow_infinity=False) | texts.filter(lambda t: t != "none"),
    max_size=3,
)
schedules = st.builds(
    Schedule,
    warmup=st.floats(0, 1e12),
    hold=st.floats(0, 1e12),
    momentum_high=st.floats(0, 0.999),
    momentum_low=st.floats(0, 0.999),
)
protocols = st.builds(
    Protocol,
    learning_rates=rates,
    first_learning_rates=rates,
    trial_steps=st.integers(100, 10**6),
    full_steps=st.integers(100, 10**6),
    trial_schedule=st.sampled_from(["cut", "compressed"]),
    epoch_steps=st.integers(1, 100),
    trial_epoch_steps=st.integers(1, 100),
    first_floor=st.none() | st.floats(-1e3, 1e3),
    floor=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    trial_floor_epoch=counts,
    floor_epoch=counts,
    judge=st.sampled_from(["best", "last"]),
    schedule=schedules,
    max_loss_ratio=st.floats(1.1, 1e30),
)
stages = st.builds(Stage, task_options=options, protocol=protocols)
tasks = texts.filter(bool)
budgeted = st.builds(
    FinalTask,
    task=texts,
    task_options=options,
    protocol=st.fixed_dictionaries(
        {},
        optional={
            "full_steps": counts,
            "weight_decays": st.just([0.0, 0.5]),
            "floor": st.none() | st.floats(0, 1),
            "schedule": st.just({"warmup": 0.25}),
        },
    ),
)
configs = st.builds(
    RunConfig,
    task=tasks,
    data=texts,
    seed=st.integers(0, 2**62),
    grammar=st.sampled_from(["paper", "extended"]) | st.just({"extends": "paper", "name": "own", "p_decay": 0.5, "unary": ["sign(x)"]}),
    initial=stages,
    evolution=stages,
    search=st.builds(
        Search,
        algorithm=st.sampled_from(["particle", "random"]),
        population=st.integers(100, 1000),
        particles=st.integers(1, 100),
        timesteps=st.integers(0, 100),
        children=st.integers(1, 9_000),
        redraws=st.integers(0, 9),
        elitist=st.booleans(),
        lookahead=counts,
    ),
    elimination=st.lists(
        st.builds(EliminationRound, keep=st.just(7), task=texts, task_options=options, protocol=protocols), max_size=2
    ).map(tuple),
    evaluation=st.builds(
        Evaluation,
        tasks=st.lists(texts | budgeted, max_size=3, unique_by=str).map(tuple),
        task_options=options,
        baselines=st.sampled_from([("adam",), ("sgd", "adam"), ()]),
        seeds=st.integers(1, 3_000),
        protocol=protocols,
    ),
)


@settings(max_examples=30)
@given(configs)
def test_text_gives_the_same_config_back_and_is_complete(config: RunConfig) -> None:
    """What a run stores says everything, whatever the defaults become."""
    text = to_toml(config)
    for base in (None, QUICK, PAPER):
        assert from_toml(text, base=base) == config


@settings(max_examples=20)
@given(configs, configs)
def test_difference_is_empty_for_equal_configs_alone(a: RunConfig, b: RunConfig) -> None:
    assert difference(a, a) == []
    assert bool(difference(a, b)) == (a != b)


def test_difference_names_key_and_both_values() -> None:
    a = preset("small")
    b = apply_settings(a, ["search.particles=3", "elimination.0.keep=2", "initial.task_options.width=9"])
    assert difference(a, b) == [
        ("initial.task_options.width", a.initial.task_options["width"], 9),
        ("search.particles", a.search.particles, 3),
        ("elimination.0.keep", a.elimination[0].keep, 2),
    ]


def test_text_explains_each_value() -> None:
    text = to_toml(preset("small"))
    assert "# seed of everything random in the run.\nseed = 0\n" in text
    assert '# "best" (maximum over epochs, as in the paper) or "last".\njudge = "best"\n' in text
    assert text.count("# seed of everything random") == 1


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_sound(name: str) -> None:
    config = preset(name)
    assert config.elimination
    assert config.evaluation.protocol.judge == "last"
    assert from_toml(f'preset = "{name}"') == config == assemble(preset_name=name)


def test_preset_paper_has_the_papers_numbers() -> None:
    config = preset("paper")
    assert dataclasses.replace(config, elimination=(), evaluation=RunConfig().evaluation, compute=Compute()) == RunConfig()
    assert config.search == Search(population=500, particles=50, timesteps=6, children=6, redraws=4)
    assert [r.keep for r in config.elimination] == [50, 25, 10]


def test_preset_paper_ends_on_the_papers_tasks_beside_its_baselines() -> None:
    """Method section 6: from scratch on three sets, fine-tuned on three, each with its budget."""
    config = preset("paper")
    budgets = final_tasks(config)
    assert {spec: protocol.full_steps for spec, protocol in budgets.items()} == {
        "cifar10-effnetv2s": 70_000,
        "cifar100-effnetv2s": 70_000,
        "tinyimagenet-effnetv2s": 70_000,
        "flowers102-effnetv2s": 3_000,
        "cars196-effnetv2s": 12_000,
        "caltech101-effnetv2s": 4_000,
    }
    scratch, tuned = budgets["cifar10-effnetv2s"], budgets["flowers102-effnetv2s"]
    assert (scratch.trial_steps, scratch.schedule.warmup) == (800, 800)
    assert (tuned.trial_steps, tuned.trial_schedule, tuned.schedule.warmup) == (300, "compressed", 0.1)
    assert {protocol.learning_rates for protocol in budgets.values()} == {Protocol().learning_rates}
    assert set(config.evaluation.baselines) == {
        *("sgd", "momentum", "nesterov", "adam", "rmsprop"),
        *("powersign", "addsign", "qhm", "adamw"),
    }
    assert config.compute == Compute("auto")


def test_the_papers_final_tasks_leave_with_the_papers_task_unless_they_were_said(tmp_path: Path) -> None:
    assert assemble(preset_name="paper", task="digits").evaluation.tasks == ()
    assert apply_settings(preset("paper"), ["task=digits"]).evaluation.tasks == ()
    assert from_toml('preset = "paper"\ntask = "digits"').evaluation.tasks == ()
    assert assemble(preset_name="paper", task="cifar10-convnet@width=4").evaluation.tasks == preset("paper").evaluation.tasks
    said = '[[evaluation.tasks]]\ntask = "mlp-moons"\n'
    own = from_toml(f'preset = "paper"\ntask = "digits"\n{said}').evaluation.tasks
    assert own == (FinalTask("mlp-moons"),)
    file = tmp_path / "mine.toml"
    file.write_text(f'preset = "paper"\n{said}', encoding="utf-8")
    assert assemble(file, task="digits").evaluation.tasks == own


BUDGETS = """
[[evaluation.tasks]]
task = "digits"
task_options = { width = 3 }
protocol = { full_steps = 300, weight_decays = [0, 1], schedule = { warmup = 0 }, floor = "none" }
[[evaluation.tasks]]
task = "mlp-moons"
"""


def test_a_final_task_has_a_budget_over_the_evaluations() -> None:
    config = from_toml(BUDGETS)
    base = config.evaluation.protocol
    assert final_tasks(config) == {
        "digits@width=3": dataclasses.replace(
            base, full_steps=300, weight_decays=(0.0, 1.0), floor=None, schedule=dataclasses.replace(base.schedule, warmup=0.0)
        ),
        "mlp-moons": base,
    }
    changed = apply_settings(config, ["evaluation.protocol.full_steps=77", "evaluation.tasks.0.protocol.trial_steps=5"])
    first, second = final_tasks(changed).values()
    assert (first.full_steps, first.trial_steps, second.full_steps, second.trial_steps) == (300, 5, 77, base.trial_steps)
    assert ("evaluation.tasks.0.protocol.trial_steps", None, 5) in difference(config, changed)
    assert from_toml(to_toml(changed)) == changed
    text = to_toml(config)
    assert "# what differs from the evaluation's protocol: some of a protocol's values, such as full_steps = 3000.\n" in text
    # Texts and tables may stand beside each other, and what is said of a text makes it a table.
    mixed = from_toml('evaluation.tasks = ["digits", { task = "mlp-moons", protocol = { preset = "fast", full_steps = 7 } }]')
    assert list(final_tasks(mixed).values()) == [mixed.evaluation.protocol, dataclasses.replace(FAST, full_steps=7)]
    settings = ["evaluation.tasks.1.protocol.schedule.warmup=0.2", 'evaluation.tasks=["digits", "mlp-moons"]']
    assert final_tasks(apply_settings(mixed, settings))["mlp-moons"].schedule.warmup == 0.2
    with pytest.raises(ConfigError, match="expected each value once"):
        from_toml('evaluation.tasks = ["digits", "digits"]')
    in_python = dataclasses.replace(config, evaluation=Evaluation(tasks=("digits", FinalTask("mlp-moons", protocol={"full_steps": 9}))))
    assert final_tasks(checked(in_python))["mlp-moons"] == dataclasses.replace(Protocol(judge="last"), full_steps=9)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "0.protocol.full_stepss=3",
            "unknown key 'evaluation.tasks.0.protocol.full_stepss'. Did you mean 'evaluation.tasks.0.protocol.full",
        ),
        ("0.protocol.schedule.warmp=0", "unknown key 'evaluation.tasks.0.protocol.schedule.warmp'. Did you mean"),
        ("1.protocol.full_steps=0", "evaluation.tasks.1.protocol.full_steps: expected a number that is at least 1, got 0."),
        ("0.protocol.floor=low", 'evaluation.tasks.0.protocol.floor: expected a number, got "low".'),
        ("0.protocol=3", "evaluation.tasks.0.protocol: expected a table, got 3."),
        ("0.protocol.schedule=3", "evaluation.tasks.0.protocol.schedule: expected a table, got 3."),
        ("0.tsk=x", "unknown key 'evaluation.tasks.0.tsk'. Did you mean 'evaluation.tasks.0.task'?"),
        ("0.task=3", "evaluation.tasks.0.task: expected text, got 3."),
        ("0.task_options.width=[1]", "evaluation.tasks.0.task_options.width: expected true, false, a number or text, got [1]."),
    ],
)
def test_mistakes_in_budgets(setting: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        apply_settings(from_toml(BUDGETS), [f"evaluation.tasks.{setting}"])
    assert str(caught.value).startswith(f"--set: {message}")


def test_mistakes_in_a_list_of_final_tasks() -> None:
    for value, message in (
        ("3", "evaluation.tasks: expected a list"),
        ("[3]", "evaluation.tasks.0: expected a task's spec or a table [[evaluation.tasks]], got 3."),
        ("[{protocol = {}}]", "evaluation.tasks.0.task: expected a value, got none."),
    ):
        with pytest.raises(ConfigError) as caught:
            from_toml(f"evaluation.tasks = {value}")
        assert str(caught.value).startswith(f"config: {message}")
    twice = BUDGETS.replace('"mlp-moons"', '"digits@width=3"')
    with pytest.raises(ConfigError, match=r"evaluation\.tasks\.1: expected each task once, got 'digits@width=3' a second time"):
        final_tasks(from_toml(twice))


@pytest.mark.parametrize("name", ["quick", "small"])
def test_final_comparisons_tune_weight_decays_and_searches_do_not(name: str) -> None:
    config = preset(name)
    assert 0.0 == config.evaluation.protocol.weight_decays[0] < max(config.evaluation.protocol.weight_decays)
    for protocol in (config.initial.protocol, config.evolution.protocol, *(r.protocol for r in config.elimination)):
        assert protocol.weight_decays == (0.0,)


def test_preset_small_measures_enough() -> None:
    search = preset("small").search
    assert search.particles >= 6
    assert search.timesteps >= 2
    assert search.population + search.particles * (1 + search.timesteps * search.children) >= 40


def test_file_goes_on_top_of_the_preset_that_it_names(tmp_path: Path) -> None:
    file = tmp_path / "my_run.toml"
    file.write_text('preset = "quick"\nseed = 3\n[search]\nparticles = 2\n[evolution.protocol]\nfull_steps = 77\n', encoding="utf-8")
    quick, config = preset("quick"), load_config(file)
    assert [key for key, _, _ in difference(quick, config)] == ["seed", "evolution.protocol.full_steps", "search.particles"]


def test_a_protocol_may_name_the_one_that_it_starts_from() -> None:
    text = """
[evolution.protocol]
preset = "fast"
full_steps = 900
schedule = { hold = 5 }
[[elimination]]
keep = 2
protocol = { preset = "fast" }
"""
    config, small = from_toml(text), preset("small")
    assert config.evolution.protocol == dataclasses.replace(FAST, full_steps=900, schedule=dataclasses.replace(FAST.schedule, hold=5))
    assert config.elimination == (dataclasses.replace(small.elimination[0], keep=2, protocol=FAST),)
    assert (config.initial, config.evaluation) == (small.initial, small.evaluation)
    settings = ["evolution.protocol.trial_steps=7", "evolution.protocol.preset=fast", "evolution.protocol.full_steps=900"]
    assert apply_settings(small, settings).evolution.protocol == dataclasses.replace(FAST, trial_steps=7, full_steps=900)
    assert apply_settings(small, ["elimination.0.protocol.preset=paper"]).elimination[0].protocol == Protocol()
    for mistake in ("evolution.protocol.preset=fats", "evolution.protocol.preset=3"):
        with pytest.raises(ConfigError, match=r"protocol.preset: expected the name of a protocol \(paper, fast\), got"):
            apply_settings(small, [mistake])
    with pytest.raises(ConfigError, match=r"config: protocol.preset: expected the name of a protocol \(paper, fast\), got"):
        from_toml('[initial.protocol]\npreset = "quick"')


def test_later_sources_are_stronger(tmp_path: Path) -> None:
    file = tmp_path / "my_run.toml"
    file.write_text('seed = 3\ndata = "a"\n[search]\nparticles = 2\n', encoding="utf-8")
    config = assemble(file, preset_name="quick", seed=4, data=tmp_path, settings=["search.particles=1"])
    assert (config.task, config.seed, config.data, config.search.particles) == (preset("quick").task, 4, str(tmp_path), 1)
    assert config.search.population == preset("quick").search.population


def test_options_leave_with_their_task() -> None:
    config = assemble(preset_name="small", task="my_tasks:Moons")
    assert config.initial.task_options == config.evolution.task_options == config.evaluation.task_options == {}
    assert all(r.task_options == {} for r in config.elimination)
    assert assemble(preset_name="small", task="cifar10-convnet").initial.task_options == preset("small").initial.task_options
    assert apply_settings(preset("small"), ["task=digits"]).initial.task_options == {}
    assert from_toml('preset = "small"\ntask = "digits"').evaluation.task_options == {}


def _all_options(config: RunConfig) -> list[dict[str, Any]]:
    stages = (config.initial, config.evolution, *config.elimination, config.evaluation)
    return [stage.task_options for stage in stages]


@pytest.mark.parametrize(
    "config",
    [
        lambda: assemble(preset_name="small", task="cifar10-convnet@width=32"),
        lambda: assemble(preset_name="small", settings=["task=cifar10-convnet@width=32"]),
        lambda: from_toml('preset = "small"\ntask = "cifar10-convnet@width=32"'),
        lambda: from_toml('task = "cifar10-convnet@width=32+label-noise:0.2"'),
        lambda: assemble(preset("small"), task=" cifar10-convnet@width=32,batch_size=64"),
        lambda: with_task(preset("small"), "cifar10-convnet@width=32"),
    ],
)
def test_options_that_are_said_win_over_the_presets_in_every_stage(config: Any) -> None:
    """And those that nobody said stay."""
    assert _all_options(config()) == [{}, *[{"augment": True}] * 3]


def test_what_a_stage_is_told_beside_the_task_wins_there() -> None:
    text = 'preset = "quick"\ntask = "digits@width=32"\n[evolution.task_options]\nwidth = 16'
    assert _all_options(from_toml(text)) == [{}, {"width": 16}, {}, {}]
    given = assemble(preset_name="quick", task="digits@width=32", settings=["evaluation.task_options.width=4"])
    assert _all_options(given) == [{}, {}, {}, {"width": 4}]


def test_options_of_a_task_go_on_top_of_the_presets() -> None:
    config = from_toml('preset = "small"\n[initial.task_options]\nbatch_size = 32')
    assert config.initial.task_options == {"width": 8, "batch_size": 32}


@pytest.mark.parametrize("name", PRESETS)
def test_a_round_goes_on_top_of_the_presets_round_at_its_place(name: str) -> None:
    base = preset(name).elimination
    text = "[[elimination]]\nseeds = 2\n[[elimination]]\nkeep = 1\nprotocol = { full_steps = 7, schedule = { hold = 3 } }"
    given = from_toml(f'preset = "{name}"\n{text}').elimination
    second = base[min(1, len(base) - 1)]
    schedule = dataclasses.replace(second.protocol.schedule, hold=3.0)
    protocol = dataclasses.replace(second.protocol, full_steps=7, schedule=schedule)
    assert given == (dataclasses.replace(base[0], seeds=2), dataclasses.replace(second, keep=1, protocol=protocol))
    assert apply_settings(preset(name), ["elimination=[{keep = 1}]"]).elimination == (dataclasses.replace(base[0], keep=1),)


def test_a_round_with_a_task_of_its_own_takes_no_options_of_another() -> None:
    text = '[[elimination]]\ntask = "{}"'
    assert from_toml(text.format("digits")).elimination[0].task_options == {}
    assert from_toml(text.format("cifar10-convnet@width=3")).elimination[0].task_options == {"augment": True}
    assert apply_settings(preset("small"), ["elimination.0.task=cifar10-convnet@width=3"]).elimination[0].task_options == {"augment": True}


def test_a_round_of_a_base_without_rounds_is_measured_like_its_evolution() -> None:
    base = dataclasses.replace(preset("quick"), elimination=())
    (given,) = from_toml("[[elimination]]\nkeep = 2", base=base).elimination
    assert (given.keep, given.task_options, given.protocol) == (2, base.evolution.task_options, base.evolution.protocol)


def test_a_config_and_a_preset_are_one_too_many() -> None:
    assert assemble(preset("quick"), seed=3, settings=["search.particles=2"]).search.particles == 2
    with pytest.raises(ConfigError, match="a config or a preset, got both"):
        assemble(preset("quick"), preset_name="small")


def test_options_of_a_round_with_its_own_task_stay() -> None:
    own = EliminationRound(keep=2, task="cifar10-convnet", task_options={"width": 3})
    assert with_task(dataclasses.replace(preset("small"), elimination=(own,)), "digits").elimination == (own,)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("search.elitist=true", True),
        ("evolution.protocol.floor=0.4", 0.4),
        ("evolution.protocol.floor=none", None),
        ("evolution.protocol.learning_rates=[1, 0.1]", (1.0, 0.1)),
        ('evaluation.baselines=["adam"]', ("adam",)),
        ("task=my_tasks:Moons@size=3", "my_tasks:Moons@size=3"),
        ("data=a=b", "a=b"),
        ("data='7'", "7"),
        ("elimination.0.keep=2", 2),
        ("evaluation.task_options.width=5", 5),
    ],
)
def test_settings(setting: str, expected: Any) -> None:
    value: Any = apply_settings(preset("small"), [setting])
    for name in setting.split("=")[0].split("."):
        value = value[int(name)] if name.isdecimal() else value[name] if isinstance(value, dict) else getattr(value, name)
    assert value == expected


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("search.particels=3", "--set: unknown key 'search.particels'. Did you mean 'search.particles'?"),
        ("particles=3", "--set: unknown key 'particles'. Did you mean 'search.particles'?"),
        ("search.particles.few=3", "--set: unknown key 'search.particles.few'."),
        ("elimination.0.keeps=3", "--set: unknown key 'elimination.0.keeps'. Did you mean 'elimination.0.keep'?"),
        ("elimination.7.keep=3", "--set elimination.7.keep: expected a position below 1"),
        ("search.particles=0", "--set: search.particles: expected a number that is at least 1, got 0."),
        ("search.particles=two", '--set: search.particles: expected a whole number, got "two".'),
        ("search.particles=2.5", "--set: search.particles: expected a whole number, got 2.5."),
        ("search.particles=true", "--set: search.particles: expected a whole number, got true."),
        ("search.particles=1979-05-27", "--set: search.particles: expected a whole number"),
        ("search.elitist=1", "--set: search.elitist: expected true or false, got 1."),
        ("search.particles=1000", "--set: search.particles: expected at most search.population (24)"),
        ("search.algorithm=partical", "--set: search.algorithm: expected one of"),
        ("grammar=papper", "--set: grammar: Unknown grammar 'papper'"),
        (
            'evaluation.baselines=["adan"]',
            "--set: evaluation.baselines.0: expected a rule of 'optevolve zoo', got 'adan'. Did you mean 'adam'?",
        ),
        ("evaluation.baselines=adam", "--set: evaluation.baselines: expected a list"),
        ("initial.protocol.judge=worst", "--set: initial.protocol.judge: expected one of 'best' or 'last', got \"worst\"."),
        ("evaluation.protocol.weight_decays=[]", "--set: evaluation.protocol.weight_decays: expected at least 1 value"),
        ("evaluation.protocol.weight_decays=[0, -0.1]", "--set: evaluation.protocol.weight_decays.1: expected a number that is at least 0"),
        ("initial.protocol.learning_rates=[]", "--set: initial.protocol.learning_rates: expected at least 1 value"),
        ("initial.protocol.learning_rates=[0.1, -1]", "--set: initial.protocol.learning_rates.1: expected a number that is more than 0"),
        ("initial.protocol.learning_rates=[nan]", "--set: initial.protocol.learning_rates.0: expected"),
        ("initial.protocol.max_loss_ratio=1", "--set: initial.protocol.max_loss_ratio: expected a number that is more than 1"),
        ("initial.task_options.width=[1]", "--set: initial.task_options.width: expected true, false, a number or text, got [1]."),
        ("initial=3", "--set: initial: expected a table, got 3."),
        ("seed=-1", "--set: seed: expected a number that is at least 0, got -1."),
        ("seed", "--set seed: expected key=value"),
        ("=3", "--set =3: expected key=value"),
    ],
)
def test_mistakes_in_settings(setting: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        apply_settings(preset("small"), [setting])
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = ", "is no TOML"),
        ('preset = "smal"', "Unknown preset 'smal': expected one of quick, small, paper. Did you mean 'small'?"),
        ("preset = 3", "preset: expected the name of a preset"),
        ("[serch]\nparticles = 3", "unknown key 'serch'. Did you mean 'search'?"),
        ("[[elimination]]\nkep = 2", "unknown key 'elimination.0.kep'. Did you mean 'elimination.0.keep'?"),
        ("elimination = 3", "elimination: expected a list"),
        ("seed = 123456789012345678901234567890.0", "seed: expected a whole number"),
        ("seed = " + '"' + "x" * 1000 + '"', "…"),
        ("[[elimination]]\nkeep = 2\n[[elimination]]\nkeep = 5", "elimination.1.keep: expected at most 2"),
    ],
)
def test_mistakes_in_files(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "run.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert message in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Cannot read the config file '.*none\.toml': No such file"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="Is a directory"):
        load_config(tmp_path)
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(tmp_path / "bytes.toml")


@settings(max_examples=50)
@given(st.text(max_size=40), st.text(max_size=20))
def test_any_setting_is_taken_or_refused(key: str, value: str) -> None:
    """Nothing but a ConfigError comes out, whatever goes in; keys of random letters are never taken."""
    with pytest.raises(ConfigError):
        apply_settings(preset("quick"), [f"{key}={value}"])


def test_a_grammars_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text('extends = "paper"\nname = "mine"\nunary = ["sign(x)"]\n', encoding="utf-8")
    config = from_toml('grammar = "mine.toml"')
    assert config.grammar == {"extends": "paper", "name": "mine", "unary": ["sign(x)"]}
    Path("mine.toml").unlink()
    assert from_toml(to_toml(config)) == config
    assert checked(config) == config
    with pytest.raises(ConfigError, match=r"grammar: Cannot read the grammar 'mine\.toml'"):
        checked(dataclasses.replace(config, grammar="mine.toml"))


def test_a_grammar_may_be_a_table_and_is_replaced_as_a_whole() -> None:
    base = from_toml('[grammar]\nextends = "paper"\np_decay = 0.5')
    assert from_toml('[grammar]\nextends = "extended"', base=base).grammar == {"extends": "extended"}
    assert from_toml('grammar = "bello2017"', base=base).grammar == "bello2017"
    assert apply_settings(base, ["grammar.p_decay=0.1"]).grammar == {"extends": "paper", "p_decay": 0.1}
    with pytest.raises(ConfigError, match=r"config: grammar: Unknown key 'p_decy' in a grammar.*Did you mean 'p_decay'"):
        from_toml('[grammar]\nextends = "paper"\np_decy = 0.5')


def test_a_few_fields_change_the_grammar_that_there_is(tmp_path: Path) -> None:
    off = {"extends": "paper", "decays": False}
    assert from_toml("grammar.decays = false").grammar == off
    assert apply_settings(preset("paper"), ["grammar.decays=false"]).grammar == off
    assert apply_settings(preset("small"), ["grammar={decays=false}"]).grammar == {"decays": False}
    for order in (["grammar=extended", "grammar.decays=false"], ["grammar.decays=false", "grammar=extended"]):
        assert apply_settings(preset("small"), order).grammar == {"extends": "extended", "decays": False}
    base = from_toml('[grammar]\nextends = "bello2017"\np_decay = 0.5')
    assert from_toml("[grammar]\ndecays = false", base=base).grammar == {"extends": "bello2017", "p_decay": 0.5, "decays": False}
    file = tmp_path / "mine.toml"
    file.write_text('extends = "paper"\nunary = ["sign(x)"]\n', encoding="utf-8")
    found = apply_settings(preset("small"), [f"grammar={file}", "grammar.decays=false"])
    assert found.grammar == {"extends": "paper", "unary": ["sign(x)"], "decays": False}
    assert from_toml(to_toml(found)) == found
    assert ("grammar.decays", None, False) in difference(preset("small"), found)


def test_a_device_of_a_protocol_is_the_runs_as_configs_once_said_it() -> None:
    """Cuda if one of the protocols says so; what says the device of the run wins."""
    assert from_toml('[evolution.protocol]\ndevice = "cuda"').compute == Compute("cuda")
    text = '[initial.protocol]\ndevice = "cpu"\n[[elimination]]\nkeep = 2\nprotocol = { device = "cuda", full_steps = 9 }\n'
    config = from_toml(text)
    assert config.compute == Compute("cuda")
    assert config.elimination[0].protocol.full_steps == 9
    assert from_toml(text + '[compute]\ndevice = "auto"').compute == Compute("auto")
    assert from_toml('preset = "paper"\n[initial.protocol]\ndevice = "cpu"').compute == Compute("cpu")
    with pytest.raises(ConfigError, match=r"config: compute\.device: expected one of 'auto', 'cpu', 'cuda' or 'mps', got \"gpu\""):
        from_toml('[evolution.protocol]\ndevice = "gpu"')
    for setting in ("evolution.protocol.device=cuda", "elimination.0.protocol.device=cuda"):
        with pytest.raises(ConfigError, match=r"^--set .*protocol\.device: expected a device for the whole run.*--device cuda or --set"):
            apply_settings(preset("small"), [setting])


def test_the_device_of_a_run_is_one_word() -> None:
    small = preset("small")
    assert on_device(small, None) == small
    assert on_device(small, "mps") == apply_settings(small, ["compute.device=mps"]) == dataclasses.replace(small, compute=Compute("mps"))
    with pytest.raises(ConfigError, match=r"--device: compute\.device: expected one of 'auto', 'cpu', 'cuda' or 'mps', got \"tpu\""):
        on_device(small, "tpu")


def test_settings_are_checked_together() -> None:
    """Neither of two values that depend on each other has to come first."""
    base = preset("quick")
    for order in (["search.population=2", "search.particles=2"], ["search.particles=2", "search.population=2"]):
        found = apply_settings(base, order).search
        assert (found.population, found.particles) == (2, 2)
    with pytest.raises(ConfigError, match=r"search\.particles: expected at most search\.population \(2\)"):
        apply_settings(base, ["search.population=2"])
