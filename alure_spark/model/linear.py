"""Linear layers whose products run where this machine is fast.

torch multiplies float32 matrices by Intel's MKL, which leaves half of the width of other vendors' vector units unused: on an AMD EPYC with
AVX-512 oneDNN, which torch brings along, takes less than half of the time (benchmarks/linear_products.py). Results differ by rounding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CPU_INFO = Path("/proc/cpuinfo")
LEAST_WORK = 2**20  # multiplications of a product from which on oneDNN's fixed cost (some 10 microseconds) pays
LEAST_SIDE = 32  # of the gradient of weights: a smaller side is slow in oneDNN


def onednn_pays(cpu_info: str, capability: str, has_product: bool) -> bool:
    """Whether products of float32 are faster in oneDNN: on a CPU with AVX-512 that is not Intel's, where torch has the product."""
    return has_product and capability.startswith("AVX512") and "vendor_id" in cpu_info and "GenuineIntel" not in cpu_info


def _cpu_info() -> str:
    return CPU_INFO.read_text() if CPU_INFO.is_file() else ""


HAS_PRODUCT = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
ONEDNN = onednn_pays(_cpu_info(), torch.backends.cpu.get_cpu_capability(), HAS_PRODUCT)


class Linear(nn.Linear):
    """nn.Linear, with the products of `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(..., n) of x (..., k), weight (n, k) and bias (n,): what F.linear gives, up to rounding."""
    exporting = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if exporting or not _faster(x, weight):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)):
        result: Tensor = _Product.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return result
    return _onednn(x, weight, bias)


def _faster(x: Tensor, weight: Tensor) -> bool:
    plain = ONEDNN and x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu"
    return plain and x.numel() * len(weight) >= LEAST_WORK


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        context.save_for_backward(x, weight)
        return _onednn(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = context.saved_tensors
        of_x, of_weight, of_bias = context.needs_input_grad
        flat, rows = gradient.flatten(0, -2), x.flatten(0, -2)
        small = min(weight.shape) < LEAST_SIDE
        return (
            _onednn(gradient, weight.t(), None) if of_x else None,
            (flat.t() @ rows if small else _onednn(flat.t(), rows.t(), None)) if of_weight else None,
            flat.sum(0) if of_bias else None,
        )
