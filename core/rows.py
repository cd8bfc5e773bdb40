"""Pictures and features of which only some rows are in memory at a time, so that a net's memory does not grow with height.

A net is written once, with the functions below, for tensors [N,H,W,C] and for Rows alike. With a tensor they do what
TensorFlow does. With Rows they only note what is to be done, until somebody iterates over the result: then chunks of rows
pass from one layer to the next, and each layer keeps the few last rows that its next window of rows needs. What depends on
all rows, as the statistics of an instance norm do, takes a pass of its own, with all that comes before it; compact features
are then written to a temporary file, from which later passes begin. The numbers are those of whole pictures.
"""

import collections
import tempfile

import numpy as np
import tensorflow as tf

from core.cli import UserError

# Features of at most so many numbers for each pixel of the picture are stored: to compute them again would take longer.
STORED_NUMBERS = 24
INT16 = 32767  # the largest


class Rows:
    """Rows of a picture or of features, [1,H,W,C] float32.

    Args:
      height: H.
      process: a function of one iterator over chunks [1,h,W,C] for each of the parents, that gives such an iterator.
      parents: the Rows that these are computed from.
      size: (height, width) of the whole picture; None: the parents'.
      chunk: how many of the picture's rows are worked at, at a time; None: the parents'.
    """

    dtype = tf.float32
    __array_ufunc__ = None  # so that NumPy leaves its operators to those below

    def __init__(self, height, process, *parents, size=None, chunk=None):
        self.height, self._process, self._parents = int(height), process, parents
        self.size, self.chunk = size or parents[0].size, chunk or parents[0].chunk

    def __iter__(self):
        """Chunks [1,h,W,C], from the top to the bottom; each pass over them computes all again."""
        uses, iterators = _count_uses(self), {}

        def read(node):
            if node not in iterators:
                iterators[node] = _split(node._process(*map(read, node._parents)), uses[node])
            return iterators[node].pop()

        return read(self)

    def __add__(self, other):
        return map_rows(tf.add, self, other)

    def __sub__(self, other):
        return map_rows(tf.subtract, self, other)

    def __mul__(self, other):
        return map_rows(tf.multiply, self, other)

    def __truediv__(self, other):
        return map_rows(tf.divide, self, other)

    __radd__, __rmul__ = __add__, __mul__

    def __rsub__(self, other):
        return map_rows(lambda chunk: other - chunk, self)


def _count_uses(root):
    """{Rows: how often it is read when the root is}, of the root and all that it is computed from."""
    uses, stack = {root: 1}, [root]
    while stack:
        for parent in stack.pop()._parents:
            if parent not in uses:
                stack.append(parent)
            uses[parent] = uses.get(parent, 0) + 1
    return uses


def _split(iterator, count):
    """[count iterators] over the same items. itertools.tee would keep up to 57 items that all of them have passed."""
    queues = [collections.deque() for _ in range(count)]

    def read(queue):
        while True:
            if not queue:
                try:
                    item = next(iterator)
                except StopIteration:
                    return
                for other in queues:
                    other.append(item)
                del item
            yield queue.popleft()

    return [iterator] if count == 1 else [read(queue) for queue in queues]


def from_picture(image, chunk):
    """Rows [1,H,W,3] float32 of a picture [H,W,3], in chunks of `chunk` rows."""

    def process():
        for top in range(0, len(image), chunk):
            yield tf.cast(image[None, top : top + chunk], tf.float32)

    return Rows(len(image), process, size=image.shape[:2], chunk=chunk)


def picture_size(images):
    """(height, width) of pictures [N,H,W,3], or of the picture that Rows come from; ints where they are known."""
    if isinstance(images, Rows):
        return images.size
    return [static or dynamic for static, dynamic in zip(images.shape[1:3], tf.unstack(tf.shape(images)[1:3]), strict=True)]


def call(traced, content, *arguments):
    """Calls a tf.function; for Rows, which no graph can hold, the Python function that it traces."""
    return (traced.python_function if isinstance(content, Rows) else traced)(content, *arguments)


def map_images(function, content):
    """function() of images one at a time, as fast as all at once, so that memory stays that of a single image.

    Args:
      function: of an image [1,H,W,C], gives [1,h,w,D].
      content: images [N,H,W,C], or Rows of one.

    Returns:
      [N,h,w,D], or what the function returned for Rows.
    """
    if isinstance(content, Rows):
        return function(content)
    return tf.map_fn(lambda image: function(image[None])[0], content)


def map_rows(function, *values):
    """function(*values), which must work on each row alone; values that are no Rows go to each chunk as they are."""
    parents = [value for value in values if isinstance(value, Rows)]
    if not parents:
        return function(*values)

    def process(*iterators):
        for chunks in _align(*iterators):
            chunks = iter(chunks)
            yield function(*(next(chunks) if isinstance(value, Rows) else value for value in values))

    return Rows(parents[0].height, process, *parents)


def slide(function, x, size, stride=1, scale=1):
    """function(x), which makes `scale` rows of each window of `size` rows, `stride` apart, as a convolution does."""
    if not isinstance(x, Rows):
        return function(x)

    def process(chunks):
        rest, skipped = None, 0  # skipped: rows before the next window, where windows lie apart
        for chunk in chunks:
            rest = chunk if rest is None else tf.concat([rest, chunk], 1)
            rest, skipped = rest[:, skipped:], max(0, skipped - rest.shape[1])
            while (count := min((rest.shape[1] - size) // stride + 1, most)) > 0:
                yield function(rest[:, : (count - 1) * stride + size])
                rest, skipped = rest[:, count * stride :], max(0, count * stride - rest.shape[1])

    # The last chunk holds all rows that the layers before kept back.
    most = max(1, x.chunk * x.height // (x.size[0] * stride))
    return Rows(scale * ((x.height - size) // stride + 1), process, x)


def pad(x, paddings, mode="CONSTANT"):
    """tf.pad of rows and columns: [N,H,W,C] -> [N,t+H+b,l+W+r,C] for paddings ((t, b), (l, r))."""
    (top, bottom), columns = paddings

    def pad_tensor(value, rows):
        return tf.pad(value, [[0, 0], rows, columns, [0, 0]], mode)

    if not isinstance(x, Rows):
        return pad_tensor(x, [top, bottom])
    needed = max(top, bottom) + 1  # rows that a reflection reads

    def process(chunks):
        # Pads the first chunk at the top and the last at the bottom, both at least as high as the reflection.
        start, rest = top, next(chunks)
        for chunk in chunks:
            if (keep := rest.shape[1] - needed) > 0:
                yield pad_tensor(rest, [start, 0])[:, : start + keep]
                start, rest = 0, rest[:, keep:]
            rest = tf.concat([rest, chunk], 1)
        yield pad_tensor(rest, [start, bottom])

    return Rows(top + x.height + bottom, process, x)


def enlarge(x, scale):
    """x, bicubic (Keys' kernel), a whole number of times as large. [N,H,W,C] -> [N,scale*H,scale*W,C]."""

    def resize(x):
        return tf.image.resize(x, scale * tf.shape(x)[1:3], "bicubic", antialias=True)

    if scale == 1:
        return x
    if not isinstance(x, Rows):
        return resize(x)
    halo = 2  # rows above and below that the kernel reads

    def process(chunks):
        rest, above = next(chunks), 0  # above: rows at the beginning of rest that have been resized before
        for chunk in chunks:
            if rest.shape[1] > above + halo:
                yield resize(rest)[:, scale * above : -scale * halo]
                kept = min(rest.shape[1] - halo, halo) + halo
                rest, above = rest[:, rest.shape[1] - kept :], kept - halo
            rest = tf.concat([rest, chunk], 1)
        yield resize(rest)[:, scale * above :]

    return Rows(scale * x.height, process, x)


def crop(x, rows, columns):
    """x[:, rows, columns] for two slices, whose stops may be None or counted from the end."""
    if not isinstance(x, Rows):
        return x[:, rows, columns]
    start, stop, _ = rows.indices(x.height)

    def process(chunks):
        position = 0
        for chunk in chunks:
            first, last = max(start - position, 0), stop - position
            position += chunk.shape[1]
            if last > 0 and first < chunk.shape[1]:
                yield chunk[:, first:last, columns]

    return Rows(stop - start, process, x)


def like(values, content):
    """[H,W,C], or [1,1,C] for all pixels, in the form in which it can be multiplied with content, a tensor or Rows."""
    if isinstance(content, Rows) and tuple(values.shape[:2]) != (1, 1):
        return from_picture(values, content.chunk)
    return values


def measure(x, stores=True):
    """(x, means [C], variances [C]) of Rows over all pixels, in one pass.

    The x that is returned may begin at a temporary file; with stores=False it never does.
    """
    file, shapes, total, mean, square = None, [], 0, 0.0, 0.0
    for chunk in x:
        height, width, channels = chunk.shape[1:]
        if stores and not shapes and channels * x.height * width <= STORED_NUMBERS * x.size[0] * x.size[1]:
            file = tempfile.TemporaryFile()  # noqa: SIM115, as the Rows that are returned read it
        if file:
            _write(file, chunk)
        shapes.append(chunk.shape)
        own_mean, own_variance = (value.numpy().astype(np.float64) for value in tf.nn.moments(chunk, [0, 1, 2]))
        count = height * width
        # Chan et al. 1979: joins means and sums of squares without the cancellation of sums of raw squares.
        change, total = own_mean - mean, total + count
        mean = mean + change * count / total
        square = square + own_variance * count + change**2 * count * (total - count) / total
    stored = Rows(x.height, lambda: _read(file, shapes), size=x.size, chunk=x.chunk) if file else x
    return stored, tf.constant(mean, tf.float32), tf.constant(square / total, tf.float32)


def _write(file, chunk):
    """Appends a chunk to a temporary file: scales [C], and int16, which take half of float32's space.

    Shares of the largest number in 16 bits are nearer to features than float16 is.
    """
    scale = tf.reduce_max(tf.abs(chunk), [0, 1, 2]) / INT16 + 1e-30
    try:
        file.write(scale.numpy().tobytes())
        file.write(tf.cast(tf.round(chunk / scale), tf.int16).numpy().data)
    except OSError as error:
        raise UserError(
            f"{tempfile.gettempdir()}: {error.strerror}; so large a picture needs temporary files: free space there, or "
            "name another folder by the environment variable TMPDIR"
        ) from None


def _read(file, shapes):
    """The chunks that _write() wrote, of these shapes."""
    position = 0
    for shape in shapes:
        file.seek(position)
        scale = np.frombuffer(file.read(4 * shape[3]), np.float32)
        numbers = np.frombuffer(file.read(2 * shape.num_elements()), np.int16).reshape(shape)
        position = file.tell()
        yield tf.cast(numbers, tf.float32) * scale


def _align(*iterators):
    """Lists of chunks of equal height, one of each of the iterators; the last one's chunks stay as they are."""
    rests = [[] for _ in iterators[:-1]]
    for chunk in iterators[-1]:
        yield [*(_take(rest, iterator, chunk.shape[1]) for rest, iterator in zip(rests, iterators, strict=False)), chunk]


def _take(rest, iterator, height):
    """The next `height` rows of the chunks in the list `rest`, to which those of the iterator are added, as one chunk."""
    while sum(chunk.shape[1] for chunk in rest) < height:
        rest.append(next(iterator))
    joined = tf.concat(rest, 1) if len(rest) > 1 else rest[0]
    rest[:] = [joined[:, height:]]
    return joined[:, :height]
