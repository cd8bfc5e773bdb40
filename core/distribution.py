"""Training on several GPUs or machines at once, with tf.distribute's strategies: who reads, computes and writes what.

A worker is a process; a replica is a copy of the variables on one of its devices, which takes its part of each batch.
All replicas begin with the same values and apply the same mean gradients, so their variables stay the same. Without a
strategy the functions here do nothing: a step is a tf.function, and tf.distribute is not on its path.
"""

import contextlib
import functools
import hashlib
import json
import os

import numpy as np
import tensorflow as tf

from core.cli import UserError

STRATEGIES = ("none", "mirrored", "multi_worker")
EXAMPLE = '{"cluster": {"worker": ["HOST:PORT", "HOST:PORT"]}, "task": {"type": "worker", "index": 0}}'
LOST = "another worker has ended or cannot be reached; see its own message, and start all of them again"
# How collective ops fail on the workers that are left; what fails in a worker itself is of other classes.
LOST_ERRORS = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)


@contextlib.contextmanager
def scope(name):
    """A context in which variables are created on all replicas of the strategy `name`, one of STRATEGIES.

    "multi_worker" must come before TensorFlow computes anything.

    Raises:
      UserError: there is no such cluster, or another worker was lost.
    """
    if name == "none":
        yield
        return
    strategy = _create_strategy(name)
    with strategy.scope():
        index, count = share()
        print(f"Worker {index} of {count}, {strategy.num_replicas_in_sync} replicas in all.")
        try:
            yield
        except tf.errors.OpError as error:
            if not is_loss_of_worker(error):
                raise
            raise UserError(LOST) from None


@functools.cache  # TensorFlow takes the collective ops of two strategies in one process for one another
def _create_strategy(name):
    return tf.distribute.MirroredStrategy() if name == "mirrored" else _join_workers()


def _join_workers():
    """The MultiWorkerMirroredStrategy of the environment's TF_CONFIG. Raises UserError when that is missing or wrong."""
    try:
        conf = json.loads(os.environ.get("TF_CONFIG", ""))
        job, index = conf["task"]["type"], int(conf["task"]["index"])
        is_member = job in ("chief", "worker") and 0 <= index < len(conf["cluster"][job])
    except (ValueError, KeyError, TypeError):
        is_member = False
    if not is_member:
        raise UserError(f"--strategy=multi_worker: TF_CONFIG does not say which worker this is; set it as {EXAMPLE}")
    workers = [str(address) for kind in ("chief", "worker") for address in conf["cluster"].get(kind) or ()]
    if len(workers) > 1:
        print(f"Waits until all workers have started: {', '.join(workers)}", flush=True)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        address = conf["cluster"][job][index]
        raise UserError(f"--strategy=multi_worker: {address} cannot be used ({str(error).splitlines()[0][:200]})") from None


def is_loss_of_worker(error):
    """Whether an error says that another worker ended or cannot be reached."""
    return isinstance(error, LOST_ERRORS) and share()[1] > 1


def share():
    """(this worker's number, the number of workers): of each batch it reads the part of that number. (0, 1) when alone."""
    addresses = _addresses()
    if len(addresses) < 2:
        return 0, 1
    resolver = tf.distribute.get_strategy().cluster_resolver
    return list(addresses).index((resolver.task_type, resolver.task_id)), len(addresses)


def is_chief():
    """Whether this worker writes the checkpoints, logs, previews and the model."""
    return share()[0] == 0


def _addresses():
    """{(job, index): address} of all workers, the chief first; {} without multi_worker."""
    resolver = tf.distribute.get_strategy().cluster_resolver if tf.distribute.has_strategy() else None
    jobs = resolver.cluster_spec().as_dict() if resolver else {}
    return {(job, i): address for job in ("chief", "worker") for i, address in enumerate(jobs.get(job, ()))}


def check_batch(size):
    """Raises UserError when a batch of `size` cannot be divided evenly among the replicas."""
    count = tf.distribute.get_strategy().num_replicas_in_sync
    if size % count:
        raise UserError(f"batch_size: got {size}, which {count} replicas cannot divide evenly; give a multiple of {count}")


def check_workers(settings):
    """Compares what all workers must have alike.

    Args:
      settings: {what: text}, such as {"train_data": the names of the photos}.

    Raises:
      UserError: on all workers, with the names of those that differ from the chief and of what is different.
    """
    digests = [list(hashlib.sha256(text.encode()).digest()) for text in settings.values()]
    by_worker = gather(np.ravel(digests)).reshape(-1, len(settings), 32)
    different = (by_worker != by_worker[0]).any(2)
    faults = [
        f"worker {index} ({address}) has another {' and another '.join(np.array([*settings])[different[index]])}"
        for index, address in enumerate(_addresses().values())
        if different[index].any()
    ]
    if faults:
        raise UserError(f"{'; '.join(faults)} than worker 0; give all workers the same")


def gather(numbers):
    """A row of integers [K] from each worker: int64 [workers,K], the same on all of them."""
    if not tf.distribute.has_strategy() or (count := share()[1]) == 1:
        return np.array([numbers])
    strategy = tf.distribute.get_strategy()
    rows = _gather(strategy, tf.constant(numbers, tf.int64)).numpy()
    return rows[:: strategy.num_replicas_in_sync // count]  # all replicas of a worker gave the same


@tf.function(autograph=False)
def _gather(strategy, numbers):
    return _first(strategy.run(lambda row: tf.distribute.get_replica_context().all_gather(row[None], 0), [numbers]))


def broadcast(variables):
    """Gives the variables of all workers the chief's values."""
    if share()[1] == 1:
        return
    strategy = tf.distribute.get_strategy()

    def assign():
        context = tf.distribute.get_replica_context()
        is_first = context.replica_id_in_sync_group == 0
        for variable in variables:
            value = tf.where(is_first, variable, tf.zeros_like(variable))
            value = context.all_reduce(tf.distribute.ReduceOp.SUM, value)
            tf.raw_ops.AssignVariableOp(resource=variable.handle, value=value)

    # A graph for these variables alone: a tf.function takes another list of mirrored variables for the same one.
    tf.function(lambda: strategy.run(assign), autograph=False)()


def split(batch):
    """A worker's share of a batch, [N,...], as step() takes it: divided among its replicas. Without a strategy as it is."""
    if not tf.distribute.has_strategy():
        return batch
    strategy = tf.distribute.get_strategy()
    parts = tf.split(batch, strategy.num_replicas_in_sync // share()[1])
    return strategy.experimental_distribute_values_from_function(
        lambda context: parts[context.replica_id_in_sync_group % len(parts)]
    )


def step(function=None, **options):
    """Decorates a method of a class that takes a training step: it becomes a tf.function.

    Within scope() each replica calls it with its part of the arguments that split() made, and with the others as they are.
    What it returns must be the same on all replicas, as what average() makes.
    """
    if function is None:
        return functools.partial(step, **options)

    @functools.wraps(function)
    def take(self, *args, **kwargs):
        if not tf.distribute.has_strategy():
            return function(self, *args, **kwargs)
        return _first(tf.distribute.get_strategy().run(functools.partial(function, self), args, kwargs))

    return tf.function(take, autograph=False, **options)


def _first(values):
    """What strategy.run() returns, of the worker's first replica."""
    strategy = tf.distribute.get_strategy()
    return tf.nest.map_structure(lambda value: strategy.experimental_local_results(value)[0], values)


def average(tensors):
    """The means over all replicas of the tensors in a nested structure, in a step; what is None stays so."""
    if not tf.distribute.has_strategy():
        return tensors
    flat = tf.nest.flatten(tensors)
    numbers = [tensor for tensor in flat if tensor is not None]
    means = iter(tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, numbers))
    return tf.nest.pack_sequence_as(tensors, [tensor if tensor is None else next(means) for tensor in flat])
