"""A published optimizer in an ordinary training loop: two moons, a small network, warm-up and cosine.

python examples/plain_loop.py
"""

import torch

from optevolve.optim import Opt6, WarmupCosine

STEPS = 400


def moons(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Points of two interleaved half circles, shape (count, 2), and their labels."""
    angle = torch.rand(count, generator=generator) * torch.pi
    label = torch.randint(2, (count,), generator=generator)
    upper = torch.stack([angle.cos(), angle.sin()], 1)
    points = torch.where(label[:, None] == 0, upper, torch.tensor([1.0, 0.5]) - upper)
    return points + 0.1 * torch.randn(count, 2, generator=generator), label


def main() -> float:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, 32), torch.nn.SiLU(), torch.nn.Linear(32, 2))

    optimizer = Opt6(model.parameters(), lr=2.0, total_steps=STEPS)
    scheduler = WarmupCosine(optimizer, total_steps=STEPS, warmup=20)
    for _ in range(STEPS):
        points, labels = moons(128, generator)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(points), labels).backward()
        optimizer.step()
        scheduler.step()

    points, labels = moons(1000, generator)
    return (model(points).argmax(1) == labels).float().mean().item()


if __name__ == "__main__":
    print(f"accuracy {main():.3f}")
