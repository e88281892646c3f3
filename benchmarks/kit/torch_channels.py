"""A residual net in Keras and in PyTorch with the same weights, its channels cut by two tools."""

import copy
import functools
from typing import Any

import keras
import numpy as np
import torch
from torch import nn
from torch.nn import functional

import keras_hoyer as kh
from kit.small_nets import NETS, Data, load

NET = NETS["residual"]


def result(method: str, share: float, seed: int) -> dict[str, Any]:
    """Accuracy right after a cut.

    Args:
        method: The tool, a space, and the name of its importance: `"magnitude"` or `"taylor"`.
        share: Of the multiply-adds that are left at most.
        seed: Of the net.

    Returns:
        Accuracies on held-out images `before` and `after_cut`, the share of the multiply-adds that
        is left, and the widths.
    """
    tool, _, importance = method.partition(" ")
    data = load(NET, None)
    model = trained(seed)
    before = accuracy(model, data)
    flops = sum(kh.count_flops(model).values())
    weights = model.get_weights()
    try:
        cut = {"ours": cut_ours, "torch-pruning": cut_by_torch_pruning}[tool]
        small = cut(model, importance, share, data)
    finally:
        kh.strip(model)
        model.set_weights(weights)
    left = multiply_adds(small) / flops
    return {"before": before, "after_cut": accuracy(small, data), "flops": left}


@functools.cache
def trained(seed: int) -> keras.Model:
    """The net, trained on digits without a penalty."""
    x, y, *_ = load(NET, None)
    keras.utils.set_random_seed(seed)
    model = NET.make()
    steps = NET.epochs * -(-len(x) // NET.batch)
    rate = keras.optimizers.schedules.CosineDecay(2e-3, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss)
    model.fit(x, y, batch_size=NET.batch, epochs=NET.epochs, verbose=0)
    return model


def cut_ours(model: keras.Model, importance: str, share: float, data: Data) -> keras.Model:
    """Cuts as a user of this project does."""
    x, y, *_ = data
    score = kh.scores.Taylor((x, y)) if importance == "taylor" else kh.scores.Magnitude()
    kh.prune(model, kh.criteria.TargetFlops(share), kh.patterns.Channel(), score=score)
    return kh.shrink(kh.strip(model))


def cut_by_torch_pruning(
    model: keras.Model, importance: str, share: float, data: Data
) -> nn.Module:
    """Cuts as a user of Torch-Pruning does: the ratio is found by trying."""
    import torch_pruning as tp

    x, y = in_torch(*data[:2])
    dense = Residual(model)
    np.testing.assert_allclose(
        dense(x[:100]).detach().numpy(), model.predict(data[0][:100], verbose=0), atol=1e-3
    )
    flops = multiply_adds(dense)
    kinds = {
        "magnitude": tp.importance.GroupMagnitudeImportance,
        "taylor": tp.importance.GroupTaylorImportance,
    }
    for ratio in np.arange(0.02, 1, 0.02):
        small = copy.deepcopy(dense).eval()
        functional.cross_entropy(small(x), y).backward()
        pruner = tp.pruner.BasePruner(
            small,
            x[:1],
            importance=kinds[importance](),
            global_pruning=True,
            pruning_ratio=float(ratio),
            ignored_layers=[small.head],
        )
        pruner.step()
        if multiply_adds(small) <= share * flops:
            return small
    raise RuntimeError(f"no ratio leaves {share:.0%} of the multiply-adds")


def in_torch(x: np.ndarray, y: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Images with channels first, and labels."""
    return torch.from_numpy(x.transpose(0, 3, 1, 2).copy()), torch.from_numpy(y).long()


def accuracy(model: keras.Model | nn.Module, data: Data) -> float:
    """Of the held-out images, in percent."""
    *_, x, y = data
    if isinstance(model, Residual):
        images, labels = in_torch(x, y)
        with torch.no_grad():
            return float(100 * (model(images).argmax(-1) == labels).float().mean())
    return float(100 * np.mean(model.predict(x, verbose=0).argmax(-1) == y))


def multiply_adds(model: keras.Model | nn.Module) -> int:
    """Of the kernels, for one image."""
    if not isinstance(model, Residual):
        return sum(kh.count_flops(model).values())
    total = 0

    def count(layer: nn.Module, _: Any, outputs: torch.Tensor) -> None:
        nonlocal total
        total += layer.weight.numel() * int(np.prod(outputs.shape[2:]))

    kernels = [layer for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    hooks = [layer.register_forward_hook(count) for layer in kernels]
    model(torch.zeros(1, 1, 8, 8))
    for hook in hooks:
        hook.remove()
    return total


class Residual(nn.Module):
    """`kit.small_nets.residual` in PyTorch, with the weights of a Keras model."""

    def __init__(self, model: keras.Model) -> None:
        super().__init__()
        self.convolutions, self.norms = nn.ModuleList(), nn.ModuleList()
        for layer in model.layers:
            if isinstance(layer, keras.layers.Conv2D):
                self.convolutions.append(_convolution(layer))
            elif isinstance(layer, keras.layers.BatchNormalization):
                self.norms.append(_norm(layer))
        dense = model.layers[-1]
        self.head = nn.Linear(dense.kernel.shape[0], dense.units)
        _set(self.head, weight=np.array(dense.get_weights()[0]).T, bias=dense.get_weights()[1])
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images, channels first, to logits."""
        wide = [each for each in self.convolutions if each.kernel_size != (1, 1)]
        [shortcut] = [each for each in self.convolutions if each.kernel_size == (1, 1)]
        stages = list(zip(wide, self.norms, strict=True))

        def convolve(x: torch.Tensor, stage: int) -> torch.Tensor:
            convolution, norm = stages[stage]
            # 'same' as in Keras: the odd pixel of a stride goes behind.
            sides = (1, 1, 1, 1) if convolution.stride == (1, 1) else (0, 1, 0, 1)
            return norm(convolution(functional.pad(x, sides)))

        x = functional.relu(convolve(x, 0))
        for first, passed in ((1, nn.Identity()), (3, shortcut)):
            y = convolve(functional.relu(convolve(x, first)), first + 1)
            x = functional.relu(passed(x) + y)
        return self.head(x.mean((2, 3)))


def _convolution(layer: keras.layers.Conv2D) -> nn.Conv2d:
    kernel, *bias = layer.get_weights()
    height, width, inputs, outputs = kernel.shape
    made = nn.Conv2d(inputs, outputs, (height, width), layer.strides, bias=bool(bias))
    _set(made, weight=kernel.transpose(3, 2, 0, 1), **({"bias": bias[0]} if bias else {}))
    return made


def _norm(layer: keras.layers.BatchNormalization) -> nn.BatchNorm2d:
    gamma, beta, mean, variance = layer.get_weights()
    made = nn.BatchNorm2d(len(gamma), eps=layer.epsilon)
    _set(made, weight=gamma, bias=beta, running_mean=mean, running_var=variance)
    return made


def _set(layer: nn.Module, **values: np.ndarray) -> None:
    with torch.no_grad():
        for name, value in values.items():
            getattr(layer, name).copy_(torch.from_numpy(np.array(value)))
