"""TF1's AdamOptimizer: one fused op for each variable; in checkpoints its state has the names that TF1 gives it.

With those names a training that the original began can go on here, and the other way round. Keras' Adam has the same
formula but keeps its state under names that change with the Keras version.

Muon, which the original does not have, learns in fewer steps.
"""

import tensorflow as tf

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
MOMENTUM, UPDATE_RMS = 0.95, 0.2  # Muon's: of Jordan et al. and of Liu et al.
FEATURES = 8  # a kernel with fewer channels in or out reads or makes pictures; Adam trains it


class Adam(tf.Module):
    """Adam (Kingma and Ba 2015) over `variables`; `iterations` counts the steps done, `learning_rate` may be assigned.

    Steps are raw ops on handles: within core.distribution's scope each replica updates its own copies of the variables.

    With `clip_norm` a step's gradients, all together, are shortened to that norm: Adam divides by the mean of squared
    gradients over about a thousand steps, so one that is far longer than the others would make all of these steps small.
    """

    def __init__(self, variables, learning_rate, clip_norm=0.0):
        super().__init__()
        self.clip_norm = clip_norm
        self.iterations = tf.Variable(0, trainable=False, dtype=tf.int64, name="global_step")
        self.learning_rate = tf.Variable(learning_rate, trainable=False, dtype=tf.float32, name="learning_rate")
        self._slots = {
            scope(v): [tf.Variable(tf.zeros_like(v), trainable=False, name=f"{scope(v)}/{s}") for s in ("Adam", "Adam_1")]
            for v in variables
        }

    @property
    def steps_done(self):
        """`iterations` as an int. A tf.distribute strategy's variables, unlike others, have no int()."""
        return int(self.iterations.numpy())

    def apply_gradients(self, gradients_and_variables):
        """One step on the (gradient, variable) pairs; a pair without gradient is left out."""
        t = tf.cast(self.iterations + 1, tf.float32)
        pairs = [(gradient, variable) for gradient, variable in gradients_and_variables if gradient is not None]
        if self.clip_norm:
            clipped, _ = tf.clip_by_global_norm([gradient for gradient, _ in pairs], self.clip_norm)
            pairs = [(gradient, variable) for gradient, (_, variable) in zip(clipped, pairs, strict=True)]
        for gradient, variable in pairs:
            self._update(variable, gradient, t)
        tf.raw_ops.AssignAddVariableOp(resource=self.iterations.handle, value=tf.constant(1, tf.int64))

    def _update(self, variable, gradient, t, learning_rate=None, beta1=BETA1):
        """The t-th step of one variable."""
        m, v = self._slots[scope(variable)]
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=m.handle,
            v=v.handle,
            beta1_power=beta1**t,
            beta2_power=BETA2**t,
            lr=self.learning_rate if learning_rate is None else learning_rate,
            beta1=beta1,
            beta2=BETA2,
            epsilon=EPSILON,
            grad=gradient,
        )

    def state(self):
        """The variables that a checkpoint needs for training to go on: the number of steps and the slots."""
        return [self.iterations, *(slot for pair in self._slots.values() for slot in pair)]

    def powers(self):
        """{"beta1_power": scalar, "beta2_power": scalar} of the next step, as TF1 saves them."""
        t = self.steps_done + 1
        return {"beta1_power": tf.constant(BETA1**t), "beta2_power": tf.constant(BETA2**t)}


class Muon(Adam):
    """Muon (Jordan et al. 2024) for kernels and matrices between features; Adam for vectors, and for
    kernels that read or make pictures.

    Its step is the momentum made orthogonal, so that directions in which gradients are small are learned as fast as others.
    The step's length is that of Liu et al. 2025 (arXiv 2502.16982), about Adam's with the same `learning_rate`.
    keras.optimizers.Muon leaves convolutions to Adam. Both of Adam's slots are updated for all variables, so that a run can
    change between Adam and Muon at a checkpoint.
    """

    def _update(self, variable, gradient, t):
        if variable.shape.rank not in (2, 4) or min(variable.shape[-2:]) < FEATURES:
            super()._update(variable, gradient, t)
            return
        # With a learning rate of 0 this updates the slots alone, in float32 under mixed_precision too.
        super()._update(variable, gradient, t, 0.0, MOMENTUM)
        m, _ = self._slots[scope(variable)]
        nesterov = tf.reshape(MOMENTUM * m + (1 - MOMENTUM) * gradient, [-1, variable.shape[-1]])
        rate = self.learning_rate * UPDATE_RMS * max(nesterov.shape) ** 0.5
        change = rate * tf.reshape(orthogonalize(nesterov), variable.shape)
        tf.raw_ops.AssignSubVariableOp(resource=variable.handle, value=change)


def orthogonalize(matrix):
    """An approximation of U V^T for a matrix [m,n] = U S V^T.

    Singular values above 0.003 of the matrix' norm become 0.68 to 1.2. Five Newton-Schulz iterations with the coefficients
    of Jordan et al. 2024 (kellerjordan.github.io/posts/muon), which give up exactness for speed.
    """
    if matrix.shape[0] < matrix.shape[1]:
        return tf.transpose(orthogonalize(tf.transpose(matrix)))
    x = matrix / (tf.norm(matrix) + 1e-12)
    for _ in range(5):
        squared = tf.matmul(x, x, transpose_a=True)
        x = 3.4445 * x + tf.matmul(x, -4.7750 * squared + 2.0315 * tf.matmul(squared, squared))
    return x


def scope(variable):
    """A variable's name as a checkpoint has it: without ':0'."""
    return variable.name.removesuffix(":0")
