"""The contract of a method, which train.py, eval.py and the reports rely on, and the gradient step that all share."""

import dataclasses
import typing

import tensorflow as tf

from core import config, distribution, styles
from core.cli import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ManyStylesConf(config.MethodConf, config.PerceptualConf):
    """What the confs of methods share that hold several styles."""

    style_images: tuple[str, ...]  # the paintings; a style's name is its file's, without the ending
    # One for each of style_images, instead of style_weight for all: paintings differ in what suits them
    style_loss_weights: tuple[float, ...] = ()

    def __post_init__(self):
        """Raises UserError when style_loss_weights do not match style_images."""
        super().__post_init__()
        if self.style_loss_weights and len(self.style_loss_weights) != len(self.style_images):
            counts = f"{len(self.style_loss_weights)} for {len(self.style_images)} style_images"
            raise UserError(f"style_loss_weights: {counts}; give one for each")

    def weigh_styles(self):
        """The weight of each style in the loss: {name: weight}. Raises UserError as styles.names does."""
        names = styles.names(self.style_images)
        return dict(zip(names, self.style_loss_weights or [self.style_weight] * len(names), strict=True))


class Method(tf.Module):
    """A net that stylizes pictures, built from its conf; for training, with its losses too.

    A subclass must have conf_class, `__init__(conf, training)`, train_step(), stylize(), `memory` and `training_memory`.
    The defaults of the other attributes fit a method of one style. Its variables are named as in checkpoints. train.py
    trains the trainable ones outside the loss network's scope.

    Attributes:
      conf_class: the class of its conf.
      memory: (bytes, bytes for each pixel) at the peak of stylize(), as `python benchmark.py memory` measures them.
      training_memory: (bytes, bytes for each pixel of a batch, further ones for each unit of conf.width) at the peak of
        train_step() with the embedded loss network, in float32.
      style_kind: what stylize() takes as styles: "name", those that the model holds; "image", any pictures; "": neither, as
        the model has a single style.
      needs_loss_network: whether a finished model needs its loss network too, the very file of its training.
      has_brush_sizes: whether Style.size sets the brush of a named style.
      works_by_rows: whether stylize() takes Rows; otherwise only pictures that fit into the memory as a whole.
      scale: how many times larger than the photo stylize()'s pictures are.
      default_strength: of eval.py, for a picture.
      style_names: the names of the styles that the model holds.
      extra_variables: variables that a model file holds beside the trained ones.
      style_variable_names: names of variables that belong to the style: an initial_model, which often has another style,
        does not set them.
      names_new_to_initial_models: names of variables that an initial_model may lack beside newer_variable_names.
      newer_variable_names: names of variables that model files of earlier versions lack: they begin without effect.
      obstacle: why it cannot be exported to other runtimes, a clause; "": it can, as it has paint().
    """

    conf_class: type[config.MethodConf]
    memory: tuple[float, float]
    training_memory: tuple[float, float, float]
    style_kind: str = ""
    needs_loss_network: bool = False
    has_brush_sizes: bool = False
    works_by_rows: bool = True
    scale: int = 1
    default_strength: float = 1.0
    style_names: typing.Sequence[str] = ()
    extra_variables: typing.Sequence[tf.Variable] = ()
    style_variable_names: typing.Sequence[str] = ()
    names_new_to_initial_models: typing.Sequence[str] = ()
    newer_variable_names: typing.Sequence[str] = ()
    obstacle: str = ""

    def __init__(self, conf):
        super().__init__()
        self.conf = conf

    def train_step(self, content, optimizer, variables):
        """Takes one step of training.

        Args:
          content: photos [N,S,S,3] float32 RGB 0..255.
          optimizer: a core.optimizer.Adam or Muon; its `iterations` counts the steps taken before.
          variables: those that the step may change.

        Returns:
          {TensorBoard tag: scalar loss}; "total_loss" is the last, if there is one.
        """
        raise NotImplementedError

    def input_of(self, photos):
        """What stylize() should get to show what training on photos [N,H,W,3] RGB 0..255 has reached: these themselves."""
        return photos

    def stylize(self, content, style=None, strength=1.0):
        """Pictures in one or several styles. [N,H,W,3] float32 RGB 0..255 -> the same, or `scale` times as large.

        Args:
          content: a tensor, or core.rows.Rows of one picture; then the result is Rows too.
          style: a list of styles.Style of the style_kind; None for a method that has none.
          strength: 0, the content as well as the method can give it back, to 1, the full style.
        """
        raise NotImplementedError

    def paint(self, image, *values):
        """One picture in the full style, as export.py puts it into a graph. [1,H,W,3] float32 RGB 0..255 -> as stylize().

        Args:
          values: what style_values() or measure_style() returns; none for a method that has no style_kind.
        """
        raise NotImplementedError

    def style_values(self, style):
        """What paint() needs of a list of styles.Style with names and without masks, mixed by weight: a list of tensors."""
        raise NotImplementedError

    def measure_style(self, image):
        """What paint() needs of a style picture [1,h,w,3] RGB 0..255: a list of tensors. Weighted means mix styles."""
        raise NotImplementedError


def minimize(compute_losses, variables, optimizer, adjust=lambda gradients: gradients):
    """Takes one step of an optimizer that lowers a loss; with several replicas, of the mean of their gradients.

    Args:
      compute_losses: a function without arguments that returns {tag: scalar loss}; the step lowers the last one.
      variables: those that the step changes.
      adjust: a function from the list of gradients, None for a variable without effect on the loss, to those that the
        optimizer applies.

    Returns:
      What compute_losses returned, averaged over the replicas.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(variables)
        losses = compute_losses()
    gradients, losses = distribution.average((tape.gradient([*losses.values()][-1], variables), losses))
    optimizer.apply_gradients(zip(adjust(gradients), variables, strict=True))
    return losses
