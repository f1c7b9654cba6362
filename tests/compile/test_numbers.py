"""Numbers where tensors are expected, and numbers that float32 cannot hold: what passes the check also steps."""

import pytest
import torch

import optevolve

RULES = [
    "clip(-1e308, s_hat)", "clip(1e39, g)", "max(1e308, g)", "min(g, -1e39)", "g * 1e308", "row_normalize(add(0.5, 0.5) - dropout(1e39))",
    "orthogonalize(left(1, s) - 9)", "clip_norm(left(2, g))", "orthogonalize(left(1, g) * left(2, w))",
    "row_normalize(left(left(1, g), w))",
    "g + orthogonalize(left(0.5, s) - 9) * v_hat",
]  # fmt: skip


@pytest.mark.parametrize("text", RULES)
def test_what_builds_also_steps(text: str) -> None:
    rule = optevolve.parse(text)
    optevolve.check_integrity(rule)
    model = torch.nn.Linear(3, 2)
    optimizer = optevolve.build(rule, model.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.ones(4, 3)).sum().backward()
        optimizer.step()
