"""Objectives in PyTorch, as programs that use it would have them: the references of the tests and of benchmark.py."""

import numpy as np
import torch
from torch.nn import functional

from core import vgg
from vgg_preprocessing import MEANS


class Network:
    """A loss network with the conf's layers; `weights` as vgg.read_weights returns them."""

    def __init__(self, conf, weights):
        self.conf, self.weights = conf, {}
        for name, value in weights.items():
            self.weights[name] = torch.tensor(value.transpose(3, 2, 0, 1) if value.ndim == 4 else value)

    def features(self, image):
        """[N,3,H,W] RGB 0..255 -> {layer: [N,C,h,w]}, no deeper than is asked for."""
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


class Objective(Network):
    """Content and style in the "relative" form and total variation's "mean" of one picture, run eagerly on the CPU.

    Args as gatys.Objective's, but for `weights` as vgg.read_weights returns them, and `styles`: [h,w,3] RGB 0..255 each.
    """

    def __init__(self, conf, weights, content, styles):
        super().__init__(conf, weights)
        with torch.no_grad():
            found = self.features(_tensor(content))
            self.content = {layer: found[layer] for layer in conf.content_layers}
            self.styles = []
            for style in styles:
                found = self.features(_tensor(style))
                self.styles.append({layer: gram(found[layer]) for layer in conf.style_layers})

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


class Training(Network):
    """Steps of training a net by the original's losses, as losses.PerceptualLoss has them by default, with Adam, eagerly.

    Args as Network's, and:
      net: a module, [N,3,H,W] RGB 0..255 -> the same.
      content, style: [N,H,W,3] and [h,w,3] RGB 0..255.
    """

    def __init__(self, conf, weights, net, content, style):
        super().__init__(conf, weights)
        self.net, self.optimizer = net.train(), torch.optim.Adam(net.parameters(), 1e-6)
        self.content = torch.from_numpy(content).permute(0, 3, 1, 2).contiguous()
        with torch.no_grad():
            self.styles = {layer: gram(values) for layer, values in self.features(_tensor(style)).items()}

    def step(self):
        """Takes one step; returns its loss, a float."""
        self.optimizer.zero_grad()
        loss = self.loss(self.net(self.content))
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def loss(self, images):
        """The loss of the content's pictures [N,3,H,W], a scalar."""
        with torch.no_grad():
            targets = self.features(self.content)
        found, conf = self.features(images), self.conf
        content = sum((found[layer] - targets[layer]).square().mean() for layer in conf.content_layers)
        errors = {layer: (gram(found[layer]) - self.styles[layer]).square().sum() for layer in conf.style_layers}
        style = sum(error / found[layer].numel() for layer, error in errors.items())
        return conf.content_weight * content + conf.style_weight * style


def gram(features):
    """[N,C,h,w] -> [N,C,C], divided by h*w*C."""
    rows = features.flatten(2)
    return rows @ rows.transpose(1, 2) / rows[0].numel()


def relative(value, target):
    """The squared error as a share of the target's energy."""
    return (value - target).square().sum() / target.square().sum()


def _tensor(image):
    """[H,W,3] -> [1,3,H,W] float32."""
    return torch.from_numpy(np.asarray(image, np.float32)).permute(2, 0, 1)[None].contiguous()
