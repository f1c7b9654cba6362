"""A published optimizer under Lightning: optimizer and scheduler as `configure_optimizers` wants them.

pip install lightning
python examples/lightning_module.py
"""

import lightning
import torch
from torch.utils.data import DataLoader, TensorDataset

from optevolve.optim import Opt10, WarmupCosine


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = torch.nn.Sequential(torch.nn.Linear(2, 32), torch.nn.SiLU(), torch.nn.Linear(32, 2))

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        points, labels = batch
        return torch.nn.functional.cross_entropy(self.model(points), labels)

    def configure_optimizers(self) -> dict[str, object]:
        steps = int(self.trainer.estimated_stepping_batches)
        optimizer = Opt10(self.parameters(), lr=1.0, total_steps=steps)
        schedule = WarmupCosine(optimizer, steps, warmup=steps // 10, momentum=(0.95, 0.85))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def main() -> float:
    lightning.seed_everything(0)
    labels = torch.randint(2, (512,))
    points = torch.randn(512, 2) + 3.0 * labels[:, None]
    data = TensorDataset(points, labels)
    module = Classifier()
    trainer = lightning.Trainer(
        max_epochs=10, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False
    )
    trainer.fit(module, DataLoader(data, batch_size=32, shuffle=True))
    return (module.model(points).argmax(1) == labels).float().mean().item()


if __name__ == "__main__":
    print(f"accuracy {main():.3f}")
