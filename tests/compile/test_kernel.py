"""The compiled kernel: element types, layouts, accuracy, threads, its cache on disk, and what happens without a compiler."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import special

from optevolve.compile import build, class_of, contract, export
from optevolve.compile.compiled import compiled_step
from optevolve.compile.kernel import fused_step
from optevolve.space import parse
from tests.compile.agreement import kernels_from_one_library
from tests.compile.exported import load

RULE = "clip_norm(v_hat + dropout(g, 0.3)) + 0.01 * noise + normalize(g) * sigmoid(w)"


@pytest.fixture(autouse=True)
def quick_compiler(monkeypatch):
    monkeypatch.setenv("CXXFLAGS", "-O1")


def kernels_used(monkeypatch) -> list:
    """Every kernel that an optimizer asks for from now on."""
    used = []

    def spy(*args):
        used.append(fused_step(*args))
        return used[-1]

    monkeypatch.setattr(contract, "fused_step", spy)
    return used


def pair(rule: str, make, steps: int = 3, **options) -> tuple[list, list]:
    """Parameters after some steps, fused and not, and nothing else different."""
    runs = []
    for fused in (True, False):
        torch.manual_seed(0)
        params = make()
        optimizer = build(rule, params, 0.01, 50, fused=fused, **options)
        for _ in range(steps):
            for p in params:
                p.grad = torch.randn(p.shape).to(p.dtype)
                if p.stride() != p.grad.stride():
                    p.grad = p.grad.t().contiguous().t()
            optimizer.step()
        runs.append([p.detach() for p in params])
    return runs[0], runs[1]


def test_many_tensors_of_all_sizes(monkeypatch) -> None:
    used = kernels_used(monkeypatch)
    sizes = [(), (1,), (15,), (16,), (17, 3), (0,), (40_000,), (16_384,), (3, 5, 7)]
    fused, plain = pair(RULE, lambda: [torch.nn.Parameter(torch.randn(size)) for size in sizes], weight_decay=0.1)
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-6)
    assert used[0] is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(monkeypatch, dtype) -> None:
    used = kernels_used(monkeypatch)
    fused, plain = pair("v_hat / (sqrt(s_hat) + 1e-8)", lambda: [torch.nn.Parameter(torch.randn(37, 5).to(dtype))])
    torch.testing.assert_close(fused, plain, rtol=0.01, atol=1e-3)
    assert used[0] is not None


def test_what_a_kernel_cannot_take_runs_beside_it() -> None:
    def make():
        return [
            torch.nn.Parameter(torch.randn(5)),
            torch.nn.Parameter(torch.randn(4, 3).t()),
            torch.nn.Parameter(torch.randn(3, dtype=torch.float64)),
            torch.nn.Parameter(torch.randn(9)),
        ]

    fused, plain = pair("clip_norm(v_hat) + 1e-3 * w", make)
    torch.testing.assert_close(fused, plain)


def test_maximize() -> None:
    fused, plain = pair("nesterov: s_hat * g", lambda: [torch.nn.Parameter(torch.randn(50))], maximize=True)
    torch.testing.assert_close(fused, plain)


def test_large_models_are_fused_unasked_and_small_ones_not(monkeypatch) -> None:
    used = kernels_used(monkeypatch)
    for size, expected in ((100, 0), (2**20, 1)):
        w = torch.nn.Parameter(torch.zeros(size))
        w.grad = torch.ones(size)
        build("v_hat", [w], 0.1).step()
        assert len(used) == expected


FUNCTIONS = {"bessel_i1e": (special.i1e, 2), "erf": (special.erf, 4), "erfc": (special.erfc, 4), "tanh": (np.tanh, 4),
             "arcsinh": (np.arcsinh, 4)}  # fmt: skip


@pytest.fixture(scope="module")
def functions() -> Iterator[None]:
    """Kernels of the functions, made at once."""
    with kernels_from_one_library((parse(f"{name}(g)") for name in FUNCTIONS), "-O1"):
        yield


def function_of(rule: str, x: np.ndarray) -> np.ndarray:
    """The kernel of a rule of the gradient alone, as a function."""
    cls = class_of(parse(rule))
    kernel = contract.fused_step(cls.advance, 0, (), torch.float32, torch.float32, False)
    w, g = torch.zeros(x.size), torch.from_numpy(x.astype(np.float32))
    kernel([[w, g]], (-1.0, 1.0, 0.0), [[]])
    return w.numpy()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_accuracy_in_units_in_the_last_place(name: str, functions: None) -> None:
    exact, units = FUNCTIONS[name]
    rng = np.random.default_rng(0)
    x = np.concatenate([np.linspace(-9, 9, 100_001), rng.normal(size=100_000) * 10 ** rng.uniform(-6, 1, 100_000), [0.0, 8.0, 1e-30]])
    x = x[np.abs(x) < 9].astype(np.float32)
    expected = exact(x.astype(np.float64))
    spacing = np.spacing(np.abs(expected).astype(np.float32)).astype(np.float64)
    assert np.max(np.abs(function_of(f"{name}(g)", x) - expected) / spacing) <= units


def test_bessel_at_the_ends(functions: None) -> None:
    x = np.array([np.inf, -np.inf, 1e30, 20.0, -20.0, np.nan], dtype=np.float32)
    np.testing.assert_allclose(function_of("bessel_i1e(g)", x), special.i1e(x), rtol=2e-7)


def test_rules_that_differ_in_a_number_are_one_kernel(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("RULE_KERNEL_CACHE", str(tmp_path))
    used = kernels_used(monkeypatch)
    for rule in ("clip(ema(g, 0.9), 2 * sqrt(s))", "clip(ema(g, 0.5), 3 * sqrt(moment(g ** 2, 0.7)))"):
        fused, plain = pair(rule, lambda: [torch.nn.Parameter(torch.randn(50))])
        torch.testing.assert_close(fused, plain)
    assert all(used)
    assert len(list(tmp_path.iterdir())) == 1


def test_threads_do_not_change_the_result() -> None:
    results, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            fused, _ = pair("clip_norm(g) + dropout(v_hat)", lambda: [torch.nn.Parameter(torch.randn(150_000))], steps=2)
            results.append(fused)
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


SCRIPT = """
import sys, torch, warnings
warnings.simplefilter("always")
from optevolve.compile import build
for rule in ("v_hat * 3", "s_hat * g")[: int(sys.argv[1])]:
    w = torch.nn.Parameter(torch.ones(5))
    w.grad = torch.ones(5)
    build(rule, [w], 0.1, fused=True).step()
    print(w.detach().sum().item())
"""


def in_new_process(cache, compiler: str, path: str = "", rules: int = 2, within: Sequence[str] = ()) -> subprocess.CompletedProcess:
    environment = {**os.environ, "RULE_KERNEL_CACHE": str(cache), "CXX": compiler, "CXXFLAGS": "-O1", "PATH": path}
    command = [*within, sys.executable, "-c", SCRIPT, str(rules)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)


def test_kernels_are_found_by_other_processes(made_kernels) -> None:
    """A process that has no compiler finds what one that has left behind."""
    made = sorted(path.name for path in made_kernels.iterdir())
    assert len(made) == 1
    found = in_new_process(made_kernels, "/nonexistent/compiler", rules=1)
    assert "cannot be compiled" not in found.stderr
    assert [float(line) for line in found.stdout.split()] == pytest.approx([3.5])
    assert sorted(path.name for path in made_kernels.iterdir()) == made


def test_without_a_compiler_it_runs_all_the_same_and_says_so_once(tmp_path) -> None:
    done = in_new_process(tmp_path, "/nonexistent/compiler")
    assert done.stderr.count("UserWarning: The fused step cannot be compiled") == 1
    assert "no C++ compiler was found" in done.stderr
    assert [float(line) for line in done.stdout.split()] == pytest.approx([3.5, 4.5])


def test_a_compiler_that_fails_is_reported(tmp_path) -> None:
    done = in_new_process(tmp_path, "/bin/false")
    assert done.stderr.count("UserWarning: The fused step cannot be compiled") == 1
    assert "/bin/false failed" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("message", [rb"\377\376 Fehler", rb"\260: f\344llt aus", rb"\200"])
@pytest.mark.parametrize("exported", [False, True])
def test_a_compiler_speaks_in_whatever_encoding(message: bytes, exported: bool, tmp_path, monkeypatch) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_bytes(b"#!/bin/sh\nprintf '" + message + b"' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("RULE_KERNEL_CACHE", str(tmp_path / "kernels"))
    rule = parse(f"tanh(abs(v_hat) + s) * {['g', 'w'][exported]} ** {len(message)}")  # compiled by nobody else
    made = load(export(rule, tmp_path / "told.py", name="Told")).Told if exported else class_of(rule)
    w = torch.nn.Parameter(torch.ones(2**18 + 1))
    w.grad = torch.ones_like(w)
    with pytest.warns(UserWarning, match=r"compiler failed: .*\ufffd"):
        made([w], lr=0.1, fused=True).step()
    assert w[0] != 1


WITHOUT_EXECUTION = ("unshare", "--mount", "--map-root-user", "sh", "-c", 'mount -t tmpfs -o noexec none "$0" && exec "$@"')


def test_a_cache_that_nothing_may_be_run_from_costs_a_warning_and_no_step(tmp_path) -> None:
    within = (*WITHOUT_EXECUTION, str(tmp_path))
    if shutil.which("unshare") is None or subprocess.run([*within, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here")
    done = in_new_process(tmp_path, "c++", os.environ["PATH"], rules=1, within=within)
    assert [float(line) for line in done.stdout.split()] == pytest.approx([3.5])
    warned = [line for line in done.stderr.splitlines() if "UserWarning: The fused step cannot be compiled" in line]
    assert 1 <= len(warned) == len(set(warned)) <= 2  # the kernel of all rules, and the rule's own
    assert all(re.search(r"failed to map segment.*that can be written to and run from in \$RULE_KERNEL_CACHE", line) for line in warned)


FOREIGN = "int nothing_of_ours;"


@pytest.fixture(scope="module")
def made_kernels(tmp_path_factory) -> Path:
    """What a process leaves behind."""
    cache = tmp_path_factory.mktemp("made")
    assert "UserWarning" not in in_new_process(cache, "c++", os.environ["PATH"], rules=1).stderr
    return cache


def a_file(cache, _) -> str:
    cache.write_text("no folder")
    return "Not a directory|File exists"


def below_a_file(cache, _) -> str:
    cache.parent.write_text("no folder")
    return "Not a directory"


def empty_libraries(cache, made_kernels) -> str:
    cache.mkdir()
    for path in made_kernels.iterdir():
        (cache / path.name).touch()
    return "is damaged, and is made anew"


def foreign_libraries(cache, made_kernels) -> str:
    """Whole, and named as ours are, but without the function."""
    cache.mkdir()
    other = cache.parent / "foreign.so"
    subprocess.run(["c++", "-shared", "-x", "c++", "-", "-o", str(other)], input=FOREIGN, text=True, check=True)
    digest = hashlib.sha256(other.read_bytes()).hexdigest()[:16]
    for path in made_kernels.iterdir():
        shutil.copy(other, cache / f"{path.name.split('-')[0]}-{digest}.so")
    return "undefined symbol"


@pytest.mark.skipif(not shutil.which("c++"), reason="no C++ compiler")
@pytest.mark.parametrize("spoil", [a_file, below_a_file, empty_libraries, foreign_libraries])
def test_a_spoiled_cache_costs_a_warning_and_no_step(spoil, tmp_path, made_kernels) -> None:
    cache = tmp_path / ("taken/kernels" if spoil is below_a_file else "kernels")
    told = spoil(cache, made_kernels)
    done = in_new_process(cache, "c++", os.environ["PATH"], rules=1)
    assert [float(line) for line in done.stdout.split()] == pytest.approx([3.5])
    warned = [line for line in done.stderr.splitlines() if "UserWarning" in line]
    assert len(warned) == len(set(warned)) <= 2
    assert warned
    assert all(re.search(told, line) for line in warned), warned
    assert "Traceback" not in done.stderr


def test_memory_is_parameters_gradients_and_states() -> None:
    """A step allocates the rule's buffers and nothing else."""
    size = 2**20
    w = torch.nn.Parameter(torch.zeros(size))
    w.grad = torch.ones(size)
    optimizer = build("v_hat / (sqrt(s_hat) + 1e-8)", [w], 0.1, fused=True)
    with torch.profiler.profile(profile_memory=True) as profile, warnings.catch_warnings():
        optimizer.step()
        optimizer.step()
    allocated = sum(event.self_cpu_memory_usage for event in profile.key_averages() if event.self_cpu_memory_usage > 0)
    assert allocated <= 2 * 4 * size * 1.01


@pytest.mark.parametrize("rule", ["v_hat + dropout(g, 0.3) + noise", "clip_norm(v_hat)"])
def test_flat_buffers(rule: str) -> None:
    """Compiled, flat buffers step like tensors by themselves; element by element they are one tensor for the kernel."""
    results = []
    for flat in (False, True):
        torch.manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(size)) for size in ((5, 7), (40,), ())]
        optimizer = build(rule, params, 0.01, fused=True, flat=flat)
        for _ in range(3):
            for p in params:
                p.grad = torch.randn(p.shape)
            optimizer.step()
        results.append([p.detach() for p in params])
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.parametrize("rule", ["nesterov: bessel_i1e(a13 * g) + noise", "clip_norm(v_hat) + dropout(g)", "orthogonalize(g)"])
def test_the_way_of_accelerators(monkeypatch, rule: str) -> None:
    """torch.compile's way gives what plain operations give, here on the CPU and without its code generator."""
    monkeypatch.setattr(contract, "compiled_step", lambda *args: compiled_step(*args, backend="aot_eager"))
    torch.manual_seed(0)
    gradients = torch.randn(4, 6, 5)
    fused, plain = torch.nn.Parameter(torch.ones(6, 5)), torch.nn.Parameter(torch.ones(6, 5))
    first, second = build(rule, [fused], 0.01, 50, fused=False), build(rule, [plain], 0.01, 50, fused=False)
    monkeypatch.setattr(first, "_step_group", lambda group, work: step_group(first, group, work))
    for g in gradients:
        fused.grad = plain.grad = g
        first.step()
        second.step()
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-6)


def step_group(optimizer, group, work) -> None:
    ((t, work),) = work.by_step()
    optimizer._step_compiled(group, work, optimizer._numbers(t, 50), optimizer._keys(group, t), group["lr"])
    torch._foreach_add_(work.steps, 1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("options", [{"fused": True}, {"foreach": True}, {"capturable": True}, {"flat": True}], ids=str)
@pytest.mark.parametrize("rule", ["nesterov: bessel_i1e(a13 * g) + noise", "clip_norm(v_hat) + dropout(g)"])
def test_on_a_gpu(rule: str, options: dict) -> None:
    torch.manual_seed(0)
    gradients = torch.randn(4, 6, 5)
    there, here = torch.nn.Parameter(torch.ones(6, 5, device="cuda")), torch.nn.Parameter(torch.ones(6, 5))
    first, second = build(rule, [there], 0.01, 50, **options), build(rule, [here], 0.01, 50, fused=False)
    for g in gradients:
        there.grad, here.grad = g.cuda(), g
        first.step()
        second.step()
    torch.testing.assert_close(there.detach().cpu(), here.detach(), rtol=1e-4, atol=1e-5)
