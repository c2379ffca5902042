# SPDX-License-Identifier: Apache-2.0
"""Quantisation-aware training: a few epochs with the quantizers on and their ranges frozen, on the CPU.

As NVIDIA recommends for both libraries: from a calibrated model, at about 1 % of the rate that it was trained with,
annealed along a cosine; BatchNorm trains on, unfolded, because runtimes fold it exactly.
"""

from typing import Any, Callable

from workers.workflows.errors import Unsupported, WorkflowError

BATCH = 32
_MOMENTUM = 0.9


def fine_tune(
    module: Any, images: Any, labels: Any, epochs: int, rate: float, seed: int, progress: Callable[[float], None]
) -> float:
    """Train `module` in place with labels; return the mean loss of the last epoch.

    `images` are float32 (N, C, H, W), `labels` int64 (N,). Equal arguments give equal weights.

    Raises:
        WorkflowError: the loss is not finite any more.
        Unsupported: there is a class that the model has no output for.
    """
    import torch

    torch.manual_seed(seed)
    _check_classes(torch, module, images, labels)
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(module.parameters(), lr=rate, momentum=_MOMENTUM)
    per_epoch = max(len(images) // BATCH, 1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * per_epoch)
    module.train()
    mean = 0.0
    for epoch in range(epochs):
        shuffled, total = torch.randperm(len(images), generator=order), 0.0
        for step in range(per_epoch):
            chosen = shuffled[step * BATCH : (step + 1) * BATCH].numpy()
            loss = torch.nn.functional.cross_entropy(
                module(torch.from_numpy(images[chosen])), torch.from_numpy(labels[chosen])
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
            progress((epoch + (step + 1) / per_epoch) / epochs)
        mean = total / per_epoch
        if not mean < float("inf"):
            raise WorkflowError(
                "the loss of quantisation-aware training is not finite in epoch {}".format(epoch + 1),
                "Set a smaller `learning_rate`.",
                "training-diverged",
            )
    module.eval()
    return mean


def _check_classes(torch: Any, module: Any, images: Any, labels: Any) -> None:
    with torch.no_grad():
        outputs = module.eval()(torch.from_numpy(images[:1])).shape[-1]
    if int(labels.max()) >= outputs:
        raise Unsupported(
            "the data have {} classes and the model {} outputs".format(int(labels.max()) + 1, outputs),
            "Give weights that were trained for these data.",
            "classes-unsupported",
        )
