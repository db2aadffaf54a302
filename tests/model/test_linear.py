"""Linear layers give what torch's give, whichever library multiplies."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alure_spark.model import linear as rooms
from alure_spark.model.linear import Linear, linear, onednn_pays

AMD, INTEL = "processor : 0\nvendor_id : AuthenticAMD\n", "processor : 0\nvendor_id : GenuineIntel\n"


@pytest.fixture(params=[False, True], ids=["torch", "oneDNN"])
def library(request, monkeypatch):
    if request.param and not rooms.HAS_PRODUCT:
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(rooms, "ONEDNN", request.param)
    return request.param


@pytest.mark.parametrize(
    ("cpu", "capability", "has_product", "pays"),
    [
        (AMD, "AVX512", True, True),
        (AMD, "AVX512_VNNI", True, True),
        (AMD, "AVX2", True, False),
        (AMD, "AVX512", False, False),
        (INTEL, "AVX512", True, False),
        ("", "AVX512", True, False),
        ("CPU implementer : 0x41", "DEFAULT", True, False),
    ],
)
def test_onednn_is_taken_where_it_is_faster(cpu, capability, has_product, pays):
    assert onednn_pays(cpu, capability, has_product) is pays


@pytest.mark.parametrize(("rows", "width"), [((2048, 320), 64), ((5, 700, 64), 192), ((4096, 16), 256), ((9, 8), 4), ((0, 8), 4)])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_those_of_float64(library, rows, width, bias):
    torch.manual_seed(3)
    x, weight = torch.randn(rows, requires_grad=True), torch.randn(width, rows[-1], requires_grad=True)
    inputs = [x, weight, torch.randn(width, requires_grad=True)] if bias else [x, weight]
    exact = [each.detach().double().requires_grad_() for each in inputs]
    made, truth = linear(*inputs), F.linear(*exact)
    given = torch.randn(made.shape)
    torch.testing.assert_close(made.double(), truth, rtol=1e-4, atol=1e-4)
    found = torch.autograd.grad(made, inputs, given)
    for mine, theirs in zip(found, torch.autograd.grad(truth, exact, given.double()), strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-4, atol=1e-3)


def test_only_what_needs_a_gradient_gets_one(library):
    x, weight = torch.randn(2048, 320), torch.randn(64, 320, requires_grad=True)
    made = linear(x, weight)
    made.sum().backward()
    assert weight.grad is not None
    assert x.grad is None
    with torch.no_grad():
        assert not linear(x, weight).requires_grad
    assert not linear(x, weight.detach()).requires_grad


def test_other_precisions_are_torchs_own(library):
    x, weight = torch.randn(2048, 320).double(), torch.randn(64, 320).double()
    assert torch.equal(linear(x, weight), F.linear(x, weight))


def test_the_layer_is_torchs_layer(library):
    torch.manual_seed(5)
    mine = Linear(320, 64)
    torch.manual_seed(5)
    theirs = nn.Linear(320, 64)
    assert mine.state_dict().keys() == theirs.state_dict().keys()
    assert torch.equal(mine.weight, theirs.weight)
    x = torch.randn(2048, 320)
    torch.testing.assert_close(mine(x), theirs(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(copy.deepcopy(mine)(x), mine(x), rtol=0, atol=0)


def test_a_large_product_is_onednns_and_a_small_one_torchs(library, monkeypatch):
    asked = []
    plain = rooms._onednn
    monkeypatch.setattr(rooms, "_onednn", lambda *inputs: asked.append(inputs[0].shape) or plain(*inputs))
    linear(torch.randn(2048, 320), torch.randn(64, 320))
    assert bool(asked) is library
    asked.clear()
    linear(torch.randn(16, 320), torch.randn(64, 320))
    assert not asked


def test_what_is_exported_is_torchs_own(library):
    layer, x = Linear(320, 64), torch.randn(2048, 320)
    assert "mkldnn" not in str(torch.jit.trace(layer, x).graph)
    assert "mkldnn" not in str(torch.export.export(layer, (x,)).graph)
