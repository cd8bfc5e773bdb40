"""The contract of a method: what train.py, eval.py and the reports rely on, and the one gradient step of all of them."""

import dataclasses
import typing

import tensorflow as tf

from core import config


@dataclasses.dataclass(frozen=True, kw_only=True)
class ManyStylesConf(config.MethodConf, config.PerceptualConf):
    """What methods share that hold several styles, each called as its file is."""

    style_images: tuple[str, ...]


class Method(tf.Module):
    """A net that stylizes pictures, built from its conf; for training, with its losses too.

    A method gives its class of conf, `__init__(conf, training)`, `train_step`, `stylize` and its need of memory. Its
    variables have, from the start, the names that they have in a checkpoint; train.py trains those that are trainable and
    outside the loss network's scope. The rest of the contract has defaults, which fit a method of one style:

      style_kinds: what stylize() takes as styles: "name" for styles that the model holds, "image" for any picture; () for
        a model whose one style is in its weights.
      style_names: the names of the styles that the model holds.
      extra_variables: variables that a model file holds beside those that are trained.
      style_variable_names: names of variables that an initial_model, often of another style, does not give.
      newer_variable_names: names of variables that model files of earlier versions lack: they then begin where they change nothing.
    """

    conf_class: type[config.MethodConf]
    memory: tuple[float, float]  # bytes at the peak of stylize(), and more for each pixel: python benchmark.py memory
    style_kinds: tuple[str, ...] = ()
    style_names: typing.Sequence[str] = ()
    extra_variables: typing.Sequence[tf.Variable] = ()
    style_variable_names: typing.Sequence[str] = ()
    newer_variable_names: typing.Sequence[str] = ()

    def __init__(self, conf):
        super().__init__()
        self.conf = conf

    def train_step(self, content, optimizer, variables):
        """One step of the optimizer.

        Args:
          content: photos [N,S,S,3] float32 RGB 0..255.
          optimizer: whose `iterations` is the number of the steps done before.
          variables: what it may change.

        Returns:
          The step's scalar losses by their TensorBoard tags; "total_loss", where there is one, is the last.
        """
        raise NotImplementedError

    def stylize(self, content, style=None, strength=1.0):
        """[N,H,W,3] float32 RGB 0..255 -> the same size stylized.

        Args:
          style: a list of styles.Style of one of style_kinds; None when there is no kind.
          strength: from 0, the content or the best that the method makes of it without a style, to 1.
        """
        raise NotImplementedError


def minimize(compute_losses, variables, optimizer, adjust=lambda gradients: gradients):
    """One step of an optimizer on variables, against the gradient of a loss.

    Args:
      compute_losses: a function without arguments that returns scalar losses by tag. The last of them is minimized.
      adjust: called with the gradients, None where a variable has no part in the loss; returns those that are applied.

    Returns:
      The losses.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(variables)
        losses = compute_losses()
    gradients = adjust(tape.gradient([*losses.values()][-1], variables))
    optimizer.apply_gradients(zip(gradients, variables, strict=True))
    return losses
