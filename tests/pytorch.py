"""gatys.Objective in PyTorch, as a program that uses it would have it: the reference of the tests and of benchmark.py."""

import numpy as np
import torch
from torch.nn import functional

from core import vgg
from vgg_preprocessing import MEANS


class Objective:
    """Content and style in the "relative" form and total variation's "mean" of one picture, run eagerly on the CPU.

    Args as gatys.Objective's, but for `weights` as vgg.read_weights returns them, and `styles`: [h,w,3] RGB 0..255 each.
    """

    def __init__(self, conf, weights, content, styles):
        self.conf, self.weights = conf, {}
        for name, value in weights.items():
            self.weights[name] = torch.tensor(value.transpose(3, 2, 0, 1) if value.ndim == 4 else value)
        with torch.no_grad():
            found = self.features(_tensor(content))
            self.content = {layer: found[layer] for layer in conf.content_layers}
            self.styles = []
            for style in styles:
                found = self.features(_tensor(style))
                self.styles.append({layer: gram(found[layer]) for layer in conf.style_layers})

    def features(self, image):
        """[1,3,H,W] RGB 0..255 -> {layer: [1,C,h,w]}, no deeper than is asked for."""
        wanted = {*self.conf.content_layers, *self.conf.style_layers}
        x, found = image - torch.tensor(MEANS).reshape(1, 3, 1, 1), {}
        for conv in vgg.topology(self.conf.loss_model):
            if conv.endswith("_1") and conv != "conv1_1":
                pool = functional.max_pool2d if self.conf.pooling == "max" else functional.avg_pool2d
                x = pool(x, 2)
            kernel, biases = self.weights[f"{conv}/weights"], self.weights[f"{conv}/biases"]
            x = functional.relu(functional.conv2d(x, kernel, biases, padding=1))
            layer = f"{self.conf.loss_model}/{conv[:5]}/{conv}"
            if layer in wanted:
                found[layer] = x
            if len(found) == len(wanted):
                return found

    def losses_and_gradient(self, image):
        """(total, d total / d image [H,W,3]) of [H,W,3] RGB, a float and float32."""
        image = _tensor(image).requires_grad_()
        found, conf = self.features(image), self.conf
        content = sum(relative(found[layer], target) for layer, target in self.content.items()) / len(conf.content_layers)
        style = sum(relative(gram(found[layer]), target) for each in self.styles for layer, target in each.items())
        down, across = image[:, :, 1:] - image[:, :, :-1], image[:, :, :, 1:] - image[:, :, :, :-1]
        variation = (down.square().mean() + across.square().mean()) / 2
        weights = conf.content_weight, conf.style_weight / len(conf.style_layers), conf.tv_weight
        total = weights[0] * content + weights[1] * style + weights[2] * variation
        (gradient,) = torch.autograd.grad(total, image)
        return total.item(), gradient[0].permute(1, 2, 0).numpy()


def gram(features):
    """[1,C,h,w] -> [C,C], divided by h*w*C."""
    rows = features.flatten(2)[0]
    return rows @ rows.T / rows.numel()


def relative(value, target):
    """The squared error as a share of the target's energy."""
    return (value - target).square().sum() / target.square().sum()


def _tensor(image):
    """[H,W,3] -> [1,3,H,W] float32."""
    return torch.from_numpy(np.asarray(image, np.float32)).permute(2, 0, 1)[None].contiguous()
