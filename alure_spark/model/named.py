"""Modules and parameters by the names that a conf gives: a stream may be called `items`, an attribute `type`, as torch's methods are."""

from __future__ import annotations

from typing import Any, cast

from torch import nn


class Modules(nn.ModuleDict):
    """An nn.ModuleDict of any keys without a dot; they are called in the state dict as ever."""

    def add_module(self, name: str, module: nn.Module | None) -> None:
        self._modules[name] = cast(nn.Module, module)

    def train(self, mode: bool = True) -> Modules:
        """As nn.Module's, which cannot set its own attribute beside a module called `training`."""
        self.__dict__["training"] = mode
        for module in self.children():
            module.train(mode)
        return self


class Parameters(nn.ParameterDict):
    """An nn.ParameterDict of any keys without a dot; they are called in the state dict as ever."""

    def __setitem__(self, key: str, parameter: Any) -> None:
        self._keys[key] = None
        self._parameters[key] = parameter

    def train(self, mode: bool = True) -> Parameters:
        self.__dict__["training"] = mode
        return self

    def __getitem__(self, key: str) -> Any:
        return self._parameters[key]
