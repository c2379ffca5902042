# SPDX-License-Identifier: Apache-2.0
"""How weights `digits:SEED` are trained: a torchvision model with 10 outputs, once, on the CPU, then cached.

On the CPU whatever the device, so that one recipe serves every stack; the trained file's sha256 is in each record.
AdamW with a one-cycle learning rate, batches of 64, images shifted by up to a sixteenth of their side.
"""

from dataclasses import asdict, dataclass
from typing import Any, Dict, Tuple

from workers.workflows import digits
from workers.workflows.base import Context
from workers.workflows.errors import WorkflowError

#: Counts changes of the recipe; part of the weights' key.
RECIPE = 1
#: What a model of the table must reach on the test images: 350 of 360.
LEAST_TOP1 = 0.97
_BATCH = 64
_TEST_BATCH = 120


@dataclass(frozen=True)
class Training:
    """Hyper-parameters of one model. `learning_rate` is the one-cycle schedule's peak, after `warm` of all steps."""

    epochs: int
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    warm: float = 0.3


#: Models that were tuned, at the input sizes of docs/sweeps.md; they are held to LEAST_TOP1.
TABLE: Dict[str, Training] = {
    "mobilenet_v2": Training(epochs=15, learning_rate=3e-3),
    "resnet18": Training(epochs=6),
    "resnet50": Training(epochs=15),
    "squeezenet1_1": Training(epochs=30, learning_rate=5e-4),
}
_DEFAULT = Training(epochs=15)


def key(name: str) -> Dict[str, Any]:
    """All of the recipe that the weights of a model depend on."""
    return dict(asdict(_training(name)), recipe=RECIPE, data_recipe=digits.RECIPE, batch=_BATCH)


def train(ctx: Context, torch: Any, module: Any, seed: int) -> Dict[str, Any]:
    """Train `module`, already initialised from `seed`, and return facts about it. It is in eval mode then.

    Raises:
        WorkflowError: a model of the table does not reach LEAST_TOP1.
    """
    shape, training = tuple(ctx.job.model.input_shape), _training(ctx.job.model.name)
    part = digits.Digits("train", shape)
    images, labels = part.images(slice(None)), torch.from_numpy(part.labels)
    _run(ctx, torch, module, (torch.from_numpy(images), labels), training, seed)
    top1 = _top1(torch, module, shape)
    facts = dict(asdict(training), top1=top1, test_images=digits.TEST_IMAGES, training_images=len(part))
    if ctx.job.model.name in TABLE and top1 < LEAST_TOP1:
        raise WorkflowError(
            "{} reached top-1 {:.1%} on the digits' test images at {}, less than {:.0%}".format(
                ctx.job.model.name, top1, list(shape), LEAST_TOP1
            ),
            "Give the model a larger input (such as [3, 64, 64]) or another seed: `weights: digits:{}`.".format(
                seed + 1
            ),
            "training-missed-accuracy",
        )
    return facts


def _training(name: str) -> Training:
    return TABLE.get(name, _DEFAULT)


def _run(ctx: Context, torch: Any, module: Any, data: Tuple[Any, Any], training: Training, seed: int) -> None:
    images, labels = data
    # The last batch is left out where it is not full: BatchNorm cannot train on a single image.
    steps = len(labels) // _BATCH
    optimiser = torch.optim.AdamW(module.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, training.learning_rate, total_steps=steps * training.epochs, pct_start=training.warm
    )
    generator = torch.Generator().manual_seed(seed)
    loss_of = torch.nn.CrossEntropyLoss()
    module.train()
    for epoch in range(training.epochs):
        order = torch.randperm(len(labels), generator=generator)
        for step in range(steps):
            rows = order[step * _BATCH : (step + 1) * _BATCH]
            optimiser.zero_grad(set_to_none=True)
            loss_of(module(_shifted(torch, images[rows], generator)), labels[rows]).backward()
            optimiser.step()
            schedule.step()
            ctx.progress((epoch * steps + step + 1) / (steps * training.epochs))
    module.eval()


def _shifted(torch: Any, images: Any, generator: Any) -> Any:
    """Each image moved by its own whole number of pixels, black coming in."""
    height, width = images.shape[2:]
    most = max(min(height, width) // 16, 1)
    padded = torch.nn.functional.pad(images, (most, most, most, most))
    moves = torch.randint(0, 2 * most + 1, (len(images), 2), generator=generator).tolist()
    return torch.stack([padded[i, :, y : y + height, x : x + width] for i, (y, x) in enumerate(moves)])


def _top1(torch: Any, module: Any, shape: Tuple[int, ...]) -> float:
    part, right = digits.Digits("test", shape), 0
    with torch.no_grad():
        for start in range(0, len(part), _TEST_BATCH):
            rows = slice(start, start + _TEST_BATCH)
            found = module(torch.from_numpy(part.images(rows))).argmax(dim=1).numpy()
            right += int((found == part.labels[rows]).sum())
    return right / len(part)
