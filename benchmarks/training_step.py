"""Where the time of a distillation step goes, on photos of noise.

python benchmarks/training_step.py --sizes 48 64 --batch 128 --threads 2
python benchmarks/training_step.py --sizes 64 --batch 1024 --device cuda --compile
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from sfpose.networks import build_network
from sfpose.training.distillation import TaughtFaceSource
from sfpose.training.faces import TaughtFaces
from sfpose.training.maps import split_map
from sfpose.training.normalising import lacks_batch_norm, normalise_last
from sfpose.training.optimizers import build_optimizer
from sfpose.training.recipes import DistillationRecipe, distillation_objective
from sfpose.training.settings import autocast, find_device
from sfpose.training.turning import FaceTurner

PARTS = ("batch", "forward", "objective", "backward", "optimiser")
FACE = ((45, 55), (83, 55), (64, 77), (49, 98), (79, 98))


def made_up_faces(count: int) -> TaughtFaces:
    rng = np.random.default_rng(0)
    return TaughtFaces(
        photos=rng.integers(0, 256, (count, 128, 128, 3), dtype=np.uint8),
        landmarks=(FACE + rng.normal(0, 2, (count, 5, 2))).astype(np.float32),
        scores=np.ones(count, np.float32),
        embeddings=rng.normal(size=(count, 128)).astype(np.float32),
        mirror_embeddings=rng.normal(size=(count, 128)).astype(np.float32),
        held_out=np.zeros(count, bool),
    )


def now(device):
    """Seconds, when all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def step_seconds(network, objective, source, optimizers, device, precision, batch, size, number):
    """Seconds of each part of one step."""
    times = [now(device)]
    images, targets = source.batch(0, number * batch, batch, size)
    times.append(now(device))
    with autocast(device, precision):
        descriptors = network(images.contiguous(memory_format=torch.channels_last))
    descriptors = descriptors.float()
    times.append(now(device))
    loss, _ = objective(descriptors, targets)
    learned = list(objective.parameters())
    upstream, *gradients = torch.autograd.grad(loss, [descriptors, *learned], allow_unused=True)
    for parameter, gradient in zip(learned, gradients, strict=True):
        parameter.grad = gradient
    times.append(now(device))
    descriptors.backward(upstream)
    times.append(now(device))
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    times.append(now(device))
    return np.diff(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="squeezefaceposenet")
    parser.add_argument("--sizes", type=int, nargs="+", default=[48, 64])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--photos", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--face-surface", metavar="FILE", help="turn some faces to the side")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    device = find_device(options.device)
    surface, size = options.face_surface, max(options.sizes)
    turner = FaceTurner(surface, 2 * size, device=device) if surface else None
    source = TaughtFaceSource(made_up_faces(options.photos), turner=turner, device=device)
    network = build_network(options.network, input_size=options.sizes[-1])
    network, _ = split_map(network, options.network, source.bank.shape[1])
    if lacks_batch_norm(network):
        images, _ = source.batch(0, 0, options.batch, options.sizes[-1])
        network = normalise_last(network, {}, images.cpu())
    recipe = DistillationRecipe()
    objective = distillation_objective(recipe, options.network, network, source.bank).to(device)
    network.train().to(device, memory_format=torch.channels_last)
    optimizers = build_optimizer(
        recipe.loop.optimizer,
        network,
        objective,
        learning_rate=1e-4,
        weight_decay=recipe.loop.weight_decay,
    )
    if options.compile:
        network.compile()
    print("milliseconds  " + "  ".join(f"{part:>9s}" for part in PARTS) + "  images a second")
    for size in options.sizes:
        steps = [
            step_seconds(
                network,
                objective,
                source,
                optimizers,
                device,
                options.precision,
                options.batch,
                size,
                number,
            )
            for number in range(options.steps + 2)
        ]
        # The first steps pay for memory and kernels that later ones find.
        mean = np.mean(steps[2:], axis=0)
        parts = "  ".join(f"{1000 * seconds:9.0f}" for seconds in mean)
        print(f"{size:4d}x{size:<7d}  {parts}  {options.batch / mean.sum():15.0f}")


if __name__ == "__main__":
    main()
