"""One network from several that learned on from the same one: the mean of their weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sfpose.runtime.artifact import Artifact
from sfpose.training.balancing import balance
from sfpose.training.export import changed_manifest, network_from_artifact, to_onnx

__all__ = ["mean_of_weights"]


def mean_of_weights(artifacts: Sequence[Artifact]) -> Artifact:
    """Average the weights of networks of one form.

    Runs that go on from the same weights end near to each other, and the mean of their ends
    often errs less than either (Wortsman et al., "Model soups: averaging weights of multiple
    fine-tuned models improves accuracy without increasing inference time", ICML 2022). The mean
    of networks that learned apart from each other is worth nothing.

    Parameters
    ----------
    artifacts : sequence of Artifact
        Two or more. Of eight bits the values are taken that they stand for, so that a run may be
        averaged with the shipped weights that it went on from.

    Returns
    -------
    Artifact
        In float32, not mirrored, and without a calibration: eight bits, the mirror image and
        thresholds come after.

    Raises
    ------
    ValueError
        If there are fewer than two, or they are of several forms.

    Examples
    --------
    >>> from sfpose.runtime.artifact import read_artifact
    >>> from sfpose.training.averaging import mean_of_weights
    >>> mean_of_weights([read_artifact("plain"), read_artifact("plain")]).manifest["name"]
    'plain-mean'
    """
    if len(artifacts) < 2:
        raise ValueError(
            f"a mean of weights must be of two artifacts or more; got {len(artifacts)}"
        )
    first = artifacts[0]
    for each in artifacts:
        for key in ("kind", "network", "input", "alignment", "descriptor"):
            if each.manifest.get(key) != first.manifest.get(key):
                raise ValueError(
                    f"weights to average must be of networks of one form; their {key} are "
                    f"{first.manifest.get(key)!r} and {each.manifest.get(key)!r}"
                )
    networks = [network_from_artifact(artifact).eval() for artifact in artifacts]
    for network in networks:
        # Export and learning on leave layers at scales of their own, of which a mean says nothing.
        balance(network, first.network_input.size)
    states = [network.state_dict() for network in networks]
    network = networks[0]
    network.load_state_dict(
        {key: torch.stack([state[key] for state in states]).mean(0) for key in states[0]}
    )
    model = to_onnx(network, first.network_input.size)
    left = ("quantization", "mirrored")
    return Artifact(model, changed_manifest(first, "mean", None, without=left))
