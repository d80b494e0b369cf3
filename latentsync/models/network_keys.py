"""Lets a module that wraps one library network keep the network's own state-dict keys."""

from __future__ import annotations

from torch import Tensor, nn

NETWORK_PREFIX = "network."


def keep_network_keys(wrapper: nn.Module) -> None:
    """Leave "network." out of the state dict of `wrapper`, and take state dicts without it.

    Works inside other wrappers too, so an averaged copy or a distributed one saves and loads alike.
    """
    wrapper.register_state_dict_post_hook(_drop_prefix)
    wrapper.register_load_state_dict_pre_hook(_add_prefix)


def _drop_prefix(_: nn.Module, state: dict[str, Tensor], prefix: str, __: object) -> None:
    inner = prefix + NETWORK_PREFIX
    for key in [key for key in state if key.startswith(inner)]:
        state[prefix + key.removeprefix(inner)] = state.pop(key)


def _add_prefix(wrapper: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    others = tuple(f"{prefix}{name}." for name, _ in wrapper.named_children() if name != "network")
    for key in [key for key in state if key.startswith(prefix) and not key.startswith(others)]:
        state[prefix + NETWORK_PREFIX + key.removeprefix(prefix)] = state.pop(key)
