"""What a network is taught: whose face it is, or what a teacher says of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from sklearn.linear_model import Ridge
from torch import Tensor, nn

from sfpose.networks.layers import roots_of_shares, shares_of_sum

__all__ = ["DistillationObjective", "SoftmaxObjective", "hellinger_features", "spread_directions"]


class SoftmaxObjective(nn.Module):
    """Identification with softmax cross-entropy (section 4).

    Batch normalisation, dropout and a fully connected layer on the descriptor; the
    three are dropped after training.

    Parameters
    ----------
    descriptor_size, people : int
        Width of the descriptor and number of classes.
    dropout : float, default=0.5
    """

    def __init__(self, descriptor_size: int, people: int, *, dropout: float = 0.5) -> None:
        super().__init__()
        self.batchnorm10 = nn.BatchNorm1d(descriptor_size)
        self.dropout10 = nn.Dropout(dropout)
        self.fc = nn.Linear(descriptor_size, people)

    def forward(self, descriptors: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Loss and measurements of a batch; ``targets`` are class numbers (n,)."""
        logits = self.fc(self.dropout10(self.batchnorm10(descriptors)))
        loss = F.cross_entropy(logits, targets)
        correct = (logits.argmax(1) == targets).float().mean()
        return loss, {"loss": float(loss.detach()), "accuracy": float(correct)}


def hellinger_features(descriptors: Tensor) -> Tensor:
    """Square roots of the L1-normalised values, brought to length 1.

    The squared Euclidean distance of two such rows lies within a factor of two of
    the chi-square distance of the L1-normalised descriptors, and has a gradient
    everywhere.
    """
    return F.normalize(roots_of_shares(shares_of_sum(descriptors)), dim=1)


def spread_directions(count: int, size: int) -> Tensor:
    """Unit rows (count, size), the same each time: orthonormal bases, then their opposites."""
    generator = torch.Generator().manual_seed(0)
    half = (count + 1) // 2
    bases = [
        torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
        for _ in range(-(-half // size))
    ]
    directions = torch.cat(bases)[:half].float()
    return torch.cat([directions, -directions])[:count]


def _pick_own(features: Tensor, choices: Tensor, rows: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of picking choice ``i`` for features ``i``, all rows of length 1.

    ``rows`` says which row of the bank each choice is: where one is drawn twice, it is
    no wrong answer.
    """
    own = torch.arange(len(features), device=features.device)
    same = rows[None, : len(choices)] == rows[own, None]
    same[own, own] = False
    logits = features @ choices.T / temperature
    return F.cross_entropy(logits.masked_fill(same, float("-inf")), own)


class DistillationObjective(nn.Module):
    """Contrast against many embeddings of a teacher, in the space of chi-square.

    A descriptor has to pick its own teacher embedding out of a bank of thousands,
    twice: through a linear map of its Hellinger features under the cosine, and
    under the Hellinger affinity itself against a learned non-negative code of the
    teacher's embedding. The second shapes the distance in which descriptors are
    compared; the first carries more of the teacher early on. Where the map ships with the
    network (``+map``), the second only holds the values back: give it no weight.

    Parameters
    ----------
    bank : float Tensor of shape (n, d)
        Teacher embeddings, rows of length 1; row ``i`` is the target of photo ``i``.
    descriptor_size : int, default=1000
    cosine_temperature, hellinger_temperature : float
    cosine_bank, hellinger_bank : int, default=16384 and 4096
        Rows drawn from the bank at each step for the first and second contrast.
    cosine_weight : float, default=1.0
        Of one minus the cosine to the own teacher embedding, beside the first contrast.
    hellinger_weight : float, default=1.0
        Of the second contrast; it is left out at 0.
    spread_weight : float, default=0.0
        Of one minus the Hellinger affinity to the own code. Above 0 the code is not learned but the
        softplus of twice the embedding's values along ``spread_directions`` (of variance 1)
        less two, so that the chi-square distance of codes orders pairs as the cosine of embeddings
        nearly does, and that most of a code is near zero.
        Learned codes crowd in few directions: they tell known faces apart and order others badly.
    places : (int, int), default=(0, 0)
        How many maps a network gives beside the descriptor, and of how many places: a linear layer
        of their values, which starts at zero, adds to the linear map's.

    References
    ----------
    Kolf, Damer, Boutros, "QUD", BMVC 2024: distillation without labels by contrast
    against a queue of teacher features. The bank here is the whole training set.
    """

    bank: Tensor
    mean: Tensor
    place_divisors: Tensor

    def __init__(
        self,
        bank: Tensor,
        descriptor_size: int = 1000,
        *,
        cosine_temperature: float = 0.07,
        hellinger_temperature: float = 0.02,
        cosine_bank: int = 16384,
        hellinger_bank: int = 4096,
        cosine_weight: float = 1.0,
        hellinger_weight: float = 1.0,
        spread_weight: float = 0.0,
        places: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__()
        self.register_buffer("bank", bank, persistent=False)
        self.register_buffer("mean", torch.ones(descriptor_size))
        self.linear = nn.Linear(descriptor_size, bank.shape[1], bias=False)
        maps, count = places
        self.placed = nn.Linear(maps * count, bank.shape[1], bias=False) if maps else None
        if self.placed is not None:
            nn.init.zeros_(self.placed.weight)
        self.register_buffer("place_divisors", torch.ones(maps))
        # Divided by it too, many places learn no faster than one.
        self.place_length = max(1, count) ** 0.5
        self.descriptor_size = descriptor_size
        self.code = nn.Linear(bank.shape[1], descriptor_size)
        nn.init.normal_(self.code.weight, std=4.0)
        if spread_weight:
            size = bank.shape[1]
            directions = spread_directions(descriptor_size, size)
            with torch.no_grad():
                self.code.weight.copy_(2 * size**0.5 * directions)
                self.code.bias.fill_(-2)
            self.code.requires_grad_(False)
        self.cosine_temperature = cosine_temperature
        self.hellinger_temperature = hellinger_temperature
        self.cosine_bank = cosine_bank
        self.hellinger_bank = hellinger_bank
        self.cosine_weight = cosine_weight
        self.hellinger_weight = hellinger_weight
        self.spread_weight = spread_weight

    @torch.no_grad()
    def begin_with(self, outputs: Tensor, targets: Tensor) -> None:
        """Begin the linear map with what least squares make of a network's outputs.

        Parameters
        ----------
        outputs : float Tensor of shape (n, d)
            Of some thousands of images.
        targets : int Tensor of shape (n,)
            Their rows of the bank.
        """
        self.mean.copy_(outputs[:, : self.descriptor_size].mean(0))
        features = self._features(outputs).cpu().numpy()
        ridge = Ridge(1e-3 * len(features) / self.descriptor_size, fit_intercept=False)
        found = ridge.fit(features, self.bank[targets].cpu().numpy()).coef_
        self.linear.weight.copy_(torch.from_numpy(found))

    @property
    def divisors(self) -> Tensor:
        """What each value (d,) is divided by: its running mean, and a little where it is rare."""
        return self.mean + 1e-3 * self.mean.mean()

    def scaled(self, descriptors: Tensor) -> Tensor:
        """Descriptors over ``divisors``, which learn from them in training."""
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(descriptors.mean(0), 0.01)
        return descriptors / self.divisors

    def _features(self, outputs: Tensor) -> Tensor:
        return hellinger_features(self.scaled(outputs[:, : self.descriptor_size]))

    def _map(self, features: Tensor, outputs: Tensor) -> Tensor:
        mapped = self.linear(features)
        if self.placed is not None:
            maps = outputs[:, self.descriptor_size :]
            maps = maps.reshape(len(outputs), len(self.place_divisors), -1)
            maps = maps / (self.place_divisors[:, None] * self.place_length)
            mapped = mapped + self.placed(maps.flatten(1))
        return F.normalize(mapped, dim=1)

    def to_teacher(self, outputs: Tensor) -> Tensor:
        """Where the map puts a network's outputs among the teacher's embeddings, length 1."""
        return self._map(self._features(outputs), outputs)

    def forward(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Loss and measurements of a batch; ``targets`` are rows of the bank (n,)."""
        features = self._features(outputs)
        mapped = self._map(features, outputs)
        similar = (mapped * self.bank[targets]).sum(1)
        draw = torch.randint(
            0,
            len(self.bank),
            (max(self.cosine_bank, self.hellinger_bank),),
            device=targets.device,
        )
        rows = torch.cat([targets, draw])
        cosine_loss = _pick_own(
            mapped,
            self.bank[rows[: len(targets) + self.cosine_bank]],
            rows,
            self.cosine_temperature,
        )
        loss = cosine_loss + self.cosine_weight * (1 - similar.mean())
        measured = {
            "cosine": float(similar.detach().mean()),
            "cosine_loss": float(cosine_loss.detach()),
        }
        if self.hellinger_weight:
            known = self.bank[rows[: len(targets) + self.hellinger_bank]]
            codes = hellinger_features(F.softplus(self.code(known)))
            hellinger_loss = _pick_own(features, codes, rows, self.hellinger_temperature)
            loss = loss + self.hellinger_weight * hellinger_loss
            measured["hellinger_loss"] = float(hellinger_loss.detach())
            if self.spread_weight:
                affinity = (features * codes[: len(targets)]).sum(1).mean()
                loss = loss + self.spread_weight * (1 - affinity)
                measured["affinity"] = float(affinity.detach())
        return loss, {"loss": float(loss.detach()), **measured}
