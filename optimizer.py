"""TF1's AdamOptimizer: its one fused op for each variable, and its state under the names TF1 gives it in a checkpoint.

With those names a training checkpoint of the original resumes here, and ours there. Keras' Adam has the same formula
but keeps its state under names that change with the Keras version.
"""

import tensorflow as tf

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class Adam(tf.Module):
    """Adam (Kingma and Ba 2015) over `variables`; `iterations` counts the steps done, `learning_rate` may be assigned.

    With `clip_norm` a step's gradients are shortened to that norm, all together: one that is far longer than the others
    would keep the steps small for the next thousand.
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

    def apply_gradients(self, gradients_and_variables):
        """One step on the (gradient, variable) pairs; a pair without gradient is left out."""
        t = tf.cast(self.iterations + 1, tf.float32)
        pairs = [(gradient, variable) for gradient, variable in gradients_and_variables if gradient is not None]
        if self.clip_norm:
            clipped, _ = tf.clip_by_global_norm([gradient for gradient, _ in pairs], self.clip_norm)
            pairs = [(gradient, variable) for gradient, (_, variable) in zip(clipped, pairs, strict=True)]
        for gradient, variable in pairs:
            m, v = self._slots[scope(variable)]
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle,
                m=m.handle,
                v=v.handle,
                beta1_power=BETA1**t,
                beta2_power=BETA2**t,
                lr=self.learning_rate,
                beta1=BETA1,
                beta2=BETA2,
                epsilon=EPSILON,
                grad=gradient,
            )
        self.iterations.assign_add(1)

    def state(self):
        """The variables that a checkpoint must hold to go on: the slots and the step."""
        return [self.iterations, *(slot for pair in self._slots.values() for slot in pair)]

    def powers(self):
        """beta1_power and beta2_power as TF1 saves them: of the step to come. We compute them from the step."""
        t = int(self.iterations) + 1
        return {"beta1_power": tf.constant(BETA1**t), "beta2_power": tf.constant(BETA2**t)}


def scope(variable):
    """A variable's name as a checkpoint has it: without ':0'."""
    return variable.name.removesuffix(":0")
