"""From the state dicts of the reference implementation to our flows. Names: README.md beside this file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from contraflow import Exact, Flow, ResidualBlock, residual_flow, residual_flow_images
from contraflow.bijections import ActNorm, Logit
from contraflow.lipschitz import LipschitzLayer, MixedNorms, soft_normalisation

FOLDER = Path(__file__).parent / "fixtures"
StateDict = Mapping[str, Tensor]

#: Of the fixture with mixed norms, whose configuration does not name it; σ is above it, so that it matters.
_VNORMS_BOUND = 0.9


def load_fixture(name: str) -> dict[str, Any]:
    """The tensors of one fixture."""
    fixture = torch.load(FOLDER / f"{name}.pt", weights_only=True)
    if "args" in fixture:
        fixture |= {"kind": "img", "config": _checkpoint_config(fixture["args"])}
    return fixture


def _checkpoint_config(args: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments of a flow of the reference's image script, in the words of the other fixtures."""
    return {
        "n_blocks": [int(count) for count in args["nblocks"].split("-")],
        "idim": args["idim"],
        "fc_end": args["fc_end"],
        "fc_idim": args["fc_idim"],
        "coeff": args["coeff"],
        "init_alpha": 1e-6,
    }


def build(fixture: dict[str, Any]) -> Flow:
    """Our architecture for a fixture's configuration, in float64, with the exact log-determinant."""
    config = fixture["config"]
    if "vnorms" in config:
        return residual_flow(
            fixture["x"].shape[1:],
            blocks=config["nblocks"],
            hidden=(config["hid"],),
            bound=_VNORMS_BOUND,
            activation="lipswish",
            preactivation=True,
            norms=MixedNorms(tuple(int(order) for order in config["vnorms"])),
            actnorm=False,
            logdet=Exact(),
        ).double()
    if fixture["kind"] == "toy":
        return residual_flow(
            fixture["x"].shape[1:],
            blocks=config["nblocks"],
            hidden=config["hid"],
            bound=config["coeff"],
            activation="lipswish",
            preactivation=True,
            actnorm=config["actnorm"],
            logdet=Exact(),
        ).double()
    return residual_flow_images(
        fixture["x"].shape[1:],
        blocks=config["n_blocks"],
        hidden=config["idim"],
        factor_out=config.get("factor_out", False),
        dense_blocks=4 if config["fc_end"] else 0,
        dense_hidden=config.get("fc_idim", 128),
        bound=config.get("coeff", 0.98),
        activation={"swish": "lipswish"}.get(config.get("act", "swish"), config.get("act", "swish")),
        logdet=Exact(),
        preprocessing=Logit(config["init_alpha"]),
    ).double()


def _position(name: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", name))


def module_names(state: StateDict) -> list[str]:
    """The prefixes of the reference's ActNorms and residual blocks, from data to latent."""
    names = {match[1] for name in state if (match := re.match(r"((?:transforms\.\d+\.)?chain\.\d+)\.", name))}
    return sorted(names, key=_position)


def our_modules(flow: Flow) -> list[ActNorm | ResidualBlock]:
    """The modules that `module_names` names, in the same order."""
    return [module for module in flow.modules() if isinstance(module, ActNorm | ResidualBlock)]


def _places(state: StateDict, prefix: str, entry: str) -> list[str]:
    """The prefixes inside a block that have an entry, in order: layers by ``weight``, activations by ``beta``."""
    names = [name.removesuffix(f".{entry}") for name in state if name.startswith(prefix) and name.endswith(f".{entry}")]
    return sorted(names, key=_position)


def layer_names(state: StateDict) -> list[str]:
    """The prefixes of all bounded layers."""
    blocks = [name for name in module_names(state) if f"{name}.geom_p" in state]
    return [place for block in blocks for place in _places(state, f"{block}.nnet.", "weight")]


def our_layers(flow: Flow) -> list[LipschitzLayer]:
    """The layers that `layer_names` names, in the same order."""
    return [module for module in flow.modules() if isinstance(module, LipschitzLayer)]


def parameters(flow: Flow, state: StateDict) -> dict[str, torch.nn.Parameter]:
    """The reference's name → our parameter."""
    pairs: dict[str, torch.nn.Parameter] = {}
    for name, module in zip(module_names(state), our_modules(flow), strict=True):
        if isinstance(module, ActNorm):
            inner = f"{name}.fc_module" if f"{name}.fc_module.weight" in state else name
            pairs[f"{inner}.weight"], pairs[f"{inner}.bias"] = module.log_scale, module.shift
            continue
        for place, activation in zip(_places(state, name, "beta"), _betas(module), strict=True):
            pairs[f"{place}.beta"] = activation.raw_beta
        for place, layer in zip(_places(state, f"{name}.nnet.", "weight"), module.g.layers, strict=True):
            pairs[f"{place}.weight"], pairs[f"{place}.bias"] = layer.weight, layer.bias
    return pairs


def _betas(block: ResidualBlock) -> list[torch.nn.Module]:
    return [activation for activation in block.g.activations if hasattr(activation, "raw_beta")]


def load_weights(flow: Flow, state: StateDict) -> Flow:
    """Copy parameters, and v of every layer; ActNorms count as initialised."""
    with torch.no_grad():
        for name, parameter in parameters(flow, state).items():
            parameter.copy_(state[name].reshape(parameter.shape))
        for module in flow.modules():
            if isinstance(module, ActNorm):
                module.initialised.fill_(True)
        for name, layer in zip(layer_names(state), our_layers(flow), strict=True):
            layer.accept(state[f"{name}.v"].reshape(layer.v.shape))
    return flow


def freeze_sigma(flow: Flow, state: StateDict) -> Flow:
    """Have the layers take σ = uᵀWv with the reference's own u and v, in a test with the fixture `reference_sigma`.

    Ours is ‖Wv‖ after a refresh of v, which differs by the angles between u, Wv and the top singular vectors. With the
    reference's σ in place everything else can be compared to float64 accuracy.
    """
    for name, layer in zip(layer_names(state), our_layers(flow), strict=True):
        layer.reference_u = state[f"{name}.u"].double()
    return flow


@pytest.fixture
def reference_sigma(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers that `freeze_sigma` has marked take the reference's σ, and their v stays as it was loaded."""
    ours = soft_normalisation._scales_of_kind

    def scales(layers: list[LipschitzLayer]) -> Sequence[Tensor]:
        if not all(hasattr(layer, "reference_u") for layer in layers):
            return ours(layers)
        sigmas = [(x.apply_weight(x.weight, x.v).flatten() * x.reference_u).sum() for x in layers]
        return [(sigma / x.bound).clamp_min(1).reciprocal() for x, sigma in zip(layers, sigmas, strict=True)]

    monkeypatch.setattr(soft_normalisation, "_scales_of_kind", scales)


def reference_flow(fixture: dict[str, Any]) -> Flow:
    """A fixture as our flow, with the reference's σ."""
    return freeze_sigma(load_weights(build(fixture), fixture["state_dict"]), fixture["state_dict"])
