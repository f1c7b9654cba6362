"""Convolution, batch norm and swish as one module: the same numbers as the three, up to rounding, and only where it fits."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from optevolve.training import convolution
from optevolve.training.convolution import ConvNormSwish, available
from optevolve.training.norm_swish import NormSwish

needs_compiler = pytest.mark.skipif(not available(), reason="needs a C++ compiler")


def layers(inputs: int, outputs: int, stride: int) -> tuple[nn.Sequential, ConvNormSwish]:
    """The three layers, and a module with equal parameters of its own."""
    torch.manual_seed(0)
    both = []
    for _ in range(2):
        convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False).to(memory_format=torch.channels_last)
        both.append((convolution, nn.BatchNorm2d(outputs)))
    both[1][0].load_state_dict(both[0][0].state_dict())
    return nn.Sequential(*both[0], nn.SiLU()), ConvNormSwish(both[1][0], NormSwish(both[1][1]))


@needs_compiler
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("shape", [(6, 1, 8, 8), (4, 16, 8, 8), (3, 5, 7, 4), (2, 3, 1, 2), (3, 2, 9, 9), (2, 3, 32, 32)])
def test_one_module_is_the_three_layers(shape: tuple[int, ...], stride: int) -> None:
    plain, fused = layers(shape[1], 6, stride)
    x = torch.randn(shape)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [plain(inputs[0]), fused(inputs[1])]
    gradient = torch.randn_like(outputs[0])
    for output in outputs:
        output.backward(gradient)
    norm = fused.norm
    pairs = [outputs, [i.grad for i in inputs], [plain[0].weight.grad, fused.convolution.weight.grad]]
    pairs += [[plain[1].weight.grad, norm.weight.grad], [plain[1].bias.grad, norm.bias.grad]]
    pairs += [[plain[1].running_mean, norm.running_mean], [plain[1].running_var, norm.running_var]]
    for expected, found in pairs:
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.detach().abs().max()))
    torch.testing.assert_close(fused.eval()(x), plain.eval()(x))


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_it_computes_in_bfloat16(dtype: torch.dtype) -> None:
    plain, fused = layers(4, 8, 2)
    inputs = [torch.randn(16, 4, 8, 8, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_() for _ in range(2)]
    with torch.autocast("cpu", torch.bfloat16):
        outputs = [plain(inputs[0]), fused(inputs[1])]
    assert outputs[1].dtype == torch.bfloat16
    for output in outputs:
        output.float().square().sum().backward()
    for expected, found in [outputs, [i.grad for i in inputs], [plain[0].weight.grad, fused.convolution.weight.grad]]:
        assert expected is not None
        assert found is not None
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected, rtol=0.05, atol=0.03 * float(expected.detach().float().abs().max()))
    assert fused.convolution.weight.grad is not None
    assert fused.convolution.weight.grad.dtype == torch.float32


@pytest.fixture(params=["the processor's", "none"])
def bfloat16(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The kernels with the bfloat16 arithmetic that the processor has, and without."""
    if request.param == "none":
        monkeypatch.setattr(convolution, "_TEXT", convolution._TEXT.replace("#define ROUNDS_BFLOAT16\n", ""))
    monkeypatch.setattr(convolution, "largest_image", lambda *_: 64 * 64)  # whatever is faster here
    for cached in (convolution._library, convolution._kernels):
        cached.cache_clear()
    yield
    for cached in (convolution._library, convolution._kernels):
        cached.cache_clear()


@needs_compiler
@pytest.mark.usefixtures("bfloat16")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("shape", "outputs", "stride"),
    [
        ((6, 1, 8, 8), 6, 1),
        ((3, 5, 7, 4), 7, 3),
        ((3, 2, 9, 9), 40, 2),
        ((6, 3, 2, 1), 5, 4),
        ((4, 3, 32, 32), 8, 1),
        ((4, 8, 16, 16), 64, 2),
        ((4, 33, 15, 15), 17, 1),
        ((4, 33, 15, 15), 17, 2),
    ],
)
def test_bfloat16_is_float32_up_to_its_rounding(shape: tuple[int, ...], outputs: int, stride: int, dtype: torch.dtype) -> None:
    plain, fused = layers(shape[1], outputs, stride)
    for module in (plain[0], fused.convolution):
        assert isinstance(module, nn.Conv2d)
        module.weight.data = module.weight.data.bfloat16().float()  # so that both multiply the same numbers
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    inputs = [x.float().requires_grad_(), x.to(dtype).requires_grad_()]
    expected = plain(inputs[0])
    with torch.autocast("cpu", torch.bfloat16):
        assert fused.takes(inputs[1])
        found = fused(inputs[1])
    gradient = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2)).bfloat16()
    expected.backward(gradient.float())
    found.backward(gradient)
    pairs = [(expected, found), (inputs[0].grad, inputs[1].grad), (plain[0].weight.grad, fused.convolution.weight.grad)]
    pairs += [(plain[1].weight.grad, fused.norm.weight.grad), (plain[1].bias.grad, fused.norm.bias.grad)]
    for one, other in pairs:
        assert one is not None
        assert other is not None
        torch.testing.assert_close(other.float(), one, rtol=0, atol=2**-7 * float(one.detach().abs().max()))


@needs_compiler
def test_an_input_that_needs_no_gradient_gets_none() -> None:
    _, fused = layers(1, 4, 1)
    x = torch.randn(4, 1, 8, 8)
    fused(x).sum().backward()
    assert x.grad is None
    assert fused.convolution.weight.grad is not None


@pytest.mark.parametrize(
    "options", [{"bias": True}, {"groups": 2}, {"padding": 0}, {"dilation": 2}, {"stride": (1, 2)}, {"padding_mode": "reflect"}]
)
def test_other_convolutions_do_not_fit(options: dict[str, object]) -> None:
    assert ConvNormSwish.fits(nn.Conv2d(4, 4, 3, padding=1, bias=False))
    assert not ConvNormSwish.fits(nn.Conv2d(4, 4, 3, **{"padding": 1, "bias": False, **options}))  # type: ignore[arg-type]
    assert not ConvNormSwish.fits(nn.Conv2d(4, 4, 5, padding=1, bias=False))


@needs_compiler
@pytest.mark.parametrize(
    ("capability", "tiles", "pairs", "expected"),
    [
        ("AVX512", False, 2, (64 * 64, 64 * 64, 64 * 64)),
        ("AVX512", True, 2, (64 * 64, 8 * 8, 16 * 16)),
        ("AVX512", False, 1, (64 * 64, 8 * 8, 8 * 8)),
        ("AVX2", False, 1, (8 * 8, 8 * 8, 8 * 8)),
    ],
)
def test_what_torch_does_faster_stays_torchs(
    monkeypatch: pytest.MonkeyPatch, capability: str, tiles: bool, pairs: int, expected: tuple[int, int, int]
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(convolution, "has_tiles", lambda: tiles)
    monkeypatch.setattr(convolution, "_library", lambda: SimpleNamespace(bfloat16_depth=lambda: pairs))
    convolution.largest_image.cache_clear()
    layers = ((torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True))
    found = tuple(convolution.largest_image(*layer) for layer in layers)
    convolution.largest_image.cache_clear()
    assert found == expected
