"""Convolutions with one implementation for CPUs and one for GPUs.

On a CPU, a depthwise convolution of XLA is 10 to 30 times slower than a sum of shifted images times weights. A
convolution of three channels is 4 times slower than a matrix product of patches. The feature maps of a large batch do
not fit in the cache. On a GPU, XLA's own convolutions and whole batches are faster. JAX chooses the implementation when
it compiles a function for a device. Other runtimes, such as ONNX Runtime, get plain convolutions: `plain`.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

_PLAIN = contextvars.ContextVar("plain", default=False)


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """Functions that are traced in this context contain only plain convolutions of whole batches, for any runtime."""
    token = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(token)


def _by_platform(*arrays: jax.Array, cpu: Callable, default: Callable) -> Any:
    """Apply the function for a CPU, or the one for other platforms."""
    return default(*arrays) if _PLAIN.get() else jax.lax.platform_dependent(*arrays, cpu=cpu, default=default)


def depthwise(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Depthwise convolution: each channel has its own kernel. Padding is TensorFlow's "SAME".

    Args:
        x: (B, H, W, C).
        kernel: (k, k, 1, C).
        stride: in px, along both axes.

    Returns:
        (B, ceil(H / stride), ceil(W / stride), C).
    """
    return _by_platform(x, kernel, cpu=functools.partial(_shifted, stride), default=functools.partial(_native, stride))


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Convolution of an image with few channels. Padding is TensorFlow's "SAME".

    Args:
        x: (B, H, W, inputs).
        kernel: (k, k, inputs, outputs).
        stride: in px, along both axes.

    Returns:
        (B, ceil(H / stride), ceil(W / stride), outputs).
    """
    native = functools.partial(_native, stride, groups=1)
    return _by_platform(x, kernel, cpu=functools.partial(_patches, stride), default=native)


def each_image(function: Callable[[jax.Array], Any], images: jax.Array) -> Any:
    """Apply a function to a batch of images: on a CPU one image at a time, on other devices the whole batch at once.

    Args:
        function: function of a batch (B, ...) that returns arrays with a first axis B.
        images: (B, ...).

    Returns:
        The arrays that the function returns for the batch.
    """

    def one_by_one(images):
        results = jax.lax.map(lambda image: function(image[None]), images)
        return jax.tree.map(lambda result: result[:, 0], results)

    if images.shape[0] == 1:
        return function(images)
    return _by_platform(images, cpu=one_by_one, default=function)


def _native(stride: int, x, kernel, groups: int | None = None):
    groups = x.shape[-1] if groups is None else groups
    form = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "feature_group_count": groups}
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", **form)


def _patches(stride: int, x, kernel):
    """Convolution as a matrix product: the patches of the image times the kernel."""
    size, (height, width) = kernel.shape[0], (-(-extent // stride) for extent in x.shape[1:3])
    rows, columns = (_same(extent, size, stride) for extent in x.shape[1:3])
    parts = [part for _, _, part in _taps(_padded(x, rows, columns), size, height, width, stride)]
    return jnp.concatenate(parts, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _shifted(stride: int, x, kernel):
    """Depthwise convolution as a sum over the kernel's entries: shifted image times the entry's weights."""
    size = kernel.shape[0]
    height, width = (-(-extent // stride) for extent in x.shape[1:3])
    (rows, columns) = (_same(extent, size, stride) for extent in x.shape[1:3])
    padded = _padded(x, rows, columns)
    return sum(part * kernel[i, j, 0] for i, j, part in _taps(padded, size, height, width, stride))


def _forward(stride: int, x, kernel):
    return _shifted(stride, x, kernel), (x, kernel)


def _backward(stride: int, saved, gradient):
    """Gradients of `_shifted`. The input's gradient is a transposed convolution: zero padding, then flipped kernel."""
    x, kernel = saved
    size, (height, width) = kernel.shape[0], x.shape[1:3]
    gradient = jax.lax.optimization_barrier(gradient)
    (rows, columns) = (_same(extent, size, stride) for extent in (height, width))
    taps = _taps(_padded(x, rows, columns), size, *gradient.shape[1:3], stride=stride)
    of_kernel = jnp.stack([jnp.einsum("bhwc,bhwc->c", part, gradient) for _, _, part in taps])

    def spread(extent: int, before: int, out: int) -> tuple[int, int, int]:
        """Padding before, after and between the rows of the gradient, for a result of `extent` + size - 1 rows."""
        return size - 1 - before, extent - 1 + before - (out - 1) * stride, stride - 1

    edges = [spread(*numbers) for numbers in zip((height, width), (rows[0], columns[0]), gradient.shape[1:3])]
    zero = jnp.zeros((), gradient.dtype)
    padded = jax.lax.optimization_barrier(jax.lax.pad(gradient, zero, ((0, 0, 0), *edges, (0, 0, 0))))
    flipped = kernel[::-1, ::-1, 0]
    of_x = sum(part * flipped[i, j] for i, j, part in _taps(padded, size, height, width, 1))
    return of_x, of_kernel.reshape(kernel.shape)


_shifted.defvjp(_forward, _backward)


def _same(extent: int, size: int, stride: int) -> tuple[int, int]:
    """TensorFlow's "SAME" padding, (before, after). If the total is odd, the larger half is after."""
    total = max((-(-extent // stride) - 1) * stride + size - extent, 0)
    return total // 2, total - total // 2


def _padded(x, rows: tuple[int, int], columns: tuple[int, int]):
    """Pad an image with zeros. Without the barrier, XLA would pad it again for every entry of the kernel."""
    return jax.lax.optimization_barrier(jnp.pad(x, ((0, 0), rows, columns, (0, 0))))


def _taps(padded, size: int, height: int, width: int, stride: int):
    """For every entry of a kernel, yield its row, its column, and the pixels of the padded image that it multiplies."""
    for i in range(size):
        for j in range(size):
            rows, columns = ((k, k + (n - 1) * stride + 1) for k, n in ((i, height), (j, width)))
            yield i, j, padded[:, rows[0] : rows[1] : stride, columns[0] : columns[1] : stride]
