"""A published optimizer under Hugging Face's `Trainer`, which takes an optimizer and a scheduler in `optimizers`.

pip install transformers accelerate
python examples/hugging_face_trainer.py
"""

import tempfile

import torch
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from optevolve.optim import Lion, WarmupCosine

STEPS = 60


class Parity(Dataset[dict[str, torch.Tensor]]):
    """Rows of tokens; the label says whether the first one is odd."""

    def __init__(self, rows: int) -> None:
        self.tokens = torch.randint(1, 20, (rows, 6), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.tokens[index], "labels": self.tokens[index, 0] % 2}


def main() -> float:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=20, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, max_position_embeddings=8
    )
    model = BertForSequenceClassification(config)
    optimizer = Lion(model.parameters(), lr=2e-3)
    scheduler = WarmupCosine(optimizer, STEPS, warmup=5)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, max_steps=STEPS, per_device_train_batch_size=32, use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True
        )
        trainer = Trainer(model, arguments, train_dataset=Parity(512), optimizers=(optimizer, scheduler))
        trainer.train()
    model.eval()
    data = Parity(512)
    with torch.no_grad():
        predicted = model(input_ids=data.tokens).logits.argmax(1)
    return (predicted == data.tokens[:, 0] % 2).float().mean().item()


if __name__ == "__main__":
    print(f"accuracy {main():.3f}")
