"""What a pipeline is, in sixteen digits: of its networks with their weights, or of its configuration alone.

Both hashes take in which settings differ from their class's defaults, not all settings there are: a new release of
diffusers or transformers that adds a setting leaves them as they were. Neither depends on the device or on names of
files and versions.

Weights are rounded to bfloat16, so those read in float32 and in bfloat16 have one fingerprint. From float16 it cannot
be told: it has lost digits and range that decide some roundings. So ``load`` takes the fingerprint of what it loads in
float16 from a reading of the same files in bfloat16.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator
from typing import Any

from postdiff_calib.errors import UnsupportedError
from postdiff_calib.models.families import NETWORK_ROLES, family_named

# Above this many weights a tensor is hashed by evenly spaced samples: 5 s instead of minutes for SDXL.
_HASHED_WHOLE = 1 << 18
# Which type the weights were read in is not part of the architecture.
_TYPES = ("dtype", "torch_dtype")


def networks_of(pipe: Any) -> Iterator[tuple[str, Any]]:
    """The pipeline's networks by role, without ``torch.compile``'s wrapper."""
    for role in NETWORK_ROLES:
        network = getattr(pipe, role, None)
        if network is not None:
            yield role, getattr(network, "_orig_mod", network)


def network_configs(pipe: Any) -> dict[str, dict[str, Any]]:
    """Each network's configuration by role, in the form of a card's, without names of files and versions."""
    configs: dict[str, dict[str, Any]] = {}
    for role, network in networks_of(pipe):
        config = network.config
        configs[role] = _plain(config.to_dict() if hasattr(config, "to_dict") else dict(config)) | _class_entry(network)
    return configs


def control_configs(pipe: Any) -> list[dict[str, Any]]:
    """The configuration of each control network of a pipeline, in the form of a card's; empty where it has none."""
    family = family_named(type(pipe).__name__)
    control = getattr(pipe, family.control) if family is not None and family.control else None
    if control is None:
        return []
    return [_plain(dict(network.config)) | _class_entry(network) for network in getattr(control, "nets", [control])]


def configuration_of(pipe: Any) -> str:
    """Hash of the configurations of a pipeline's networks and scheduler, 16 hexadecimal digits; weights do not enter.

    So it is quick, and any pipeline has it, however it was loaded.
    """
    settings = {**_departures_by_role(pipe), "scheduler": _departures(pipe.scheduler)}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def fingerprint_pipeline(pipe: Any) -> str:
    """Hash of class, network configurations and weights, 16 hexadecimal digits.

    Quantised weights are hashed by what they are made of (numbers, scales, zero points).

    Raises:
        UnsupportedError: weights of a kind that does not give its numbers away.
    """
    digest = hashlib.sha256(type(pipe).__name__.encode())
    digest.update(json.dumps(_departures_by_role(pipe), sort_keys=True).encode())
    for role, network in networks_of(pipe):
        if scales := _adapter_scales(network):
            digest.update(json.dumps([role, scales]).encode())
        for name, tensor in sorted(network.state_dict().items()):
            for label, plain in _plain_tensors(f"{role}.{name}", tensor):
                digest.update(f"{label}{tuple(plain.shape)}".encode())
                digest.update(_bytes(label, plain))
    return digest.hexdigest()[:16]


def adapters_of(pipe: Any) -> list[str]:
    """Names of the adapters (LoRA) that are loaded into a pipeline's networks."""
    return sorted({name for _, network in networks_of(pipe) for name in getattr(network, "peft_config", None) or ()})


def _adapter_scales(network: Any) -> list[tuple[str, dict[str, float]]]:
    """How strongly adapters act in each module, by their names; empty for a network without any."""
    if not getattr(network, "peft_config", None):
        return []
    modules = ((name, getattr(module, "scaling", None)) for name, module in network.named_modules())
    return [(name, dict(sorted(scales.items()))) for name, scales in modules if isinstance(scales, dict) and scales]


def _plain_tensors(label: str, tensor: Any) -> Iterator[tuple[str, Any]]:
    """A tensor, or the tensors that a quantised one is made of (torch's protocol for tensors that wrap others)."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield label, tensor
        return
    for name in sorted(tensor.__tensor_flatten__()[0]):
        yield from _plain_tensors(f"{label}.{name}", getattr(tensor, name))


def _bytes(label: str, tensor: Any) -> bytes:
    """The numbers of a tensor, or an even sample of them; of floating point, in bfloat16.

    Raises:
        UnsupportedError: its type cannot be read.
    """
    import torch

    try:
        flat = tensor.detach().flatten()
        if len(flat) > _HASHED_WHOLE:
            flat = flat[:: len(flat) // _HASHED_WHOLE + 1]
        if flat.is_floating_point():
            flat = flat.to(torch.bfloat16).view(torch.int16)
        found: bytes = flat.cpu().contiguous().numpy().tobytes()
    except (NotImplementedError, RuntimeError, TypeError) as error:
        raise UnsupportedError(
            f"weights {label} of type {type(tensor).__name__} in {tensor.dtype}",
            "their numbers cannot be read, so the model has no fingerprint",
            "load the model without quantising it",
        ) from error
    return found


def _departures_by_role(pipe: Any) -> dict[str, dict[str, Any]]:
    return {role: _departures(network) | _class_entry(network) for role, network in networks_of(pipe)}


def _departures(configured: Any) -> dict[str, Any]:
    """The settings of a network or scheduler that are not its class's defaults."""
    config = configured.config
    if hasattr(config, "to_dict"):  # transformers': a class of its own, which a network takes whole
        settings, usual = config.to_dict(), type(config)().to_dict()
    else:
        settings, parameters = dict(config), inspect.signature(type(configured).__init__).parameters
        usual = {name: p.default for name, p in parameters.items() if p.default is not p.empty}
    defaults, missing = _plain(usual), object()
    return {key: value for key, value in _plain(settings).items() if defaults.get(key, missing) != value}


def _class_entry(network: Any) -> dict[str, Any]:
    """The class, as a card's configuration names it."""
    name = type(network).__name__
    return {"architectures": [name]} if hasattr(network.config, "to_dict") else {"_class_name": name}


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """As JSON has it, without private entries, versions and types."""
    kept = {k: v for k, v in config.items() if not k.startswith("_") and "version" not in k and k not in _TYPES}
    found: dict[str, Any] = json.loads(json.dumps(kept, default=str))
    return found


#: What every tokenizer is asked: cases, digits, signs, accents, another script, a long word, a truncated text.
_PROBE = ("A large RED circle, 2 cats & a naïve café – 猫; supercalifragilistic on a yellow background.", "word " * 400)
_TOKENIZER_ROLES = ("tokenizer", "tokenizer_2", "tokenizer_3")


def fingerprint_tokenizers(pipe: Any) -> str:
    """Hash of what a pipeline's tokenizers make of text, 16 hexadecimal digits; empty where it has none.

    Vocabulary and the tokens of a few texts enter, with the length at which texts are cut and what fills them up. Names
    of files and versions do not, nor whether a tokenizer is of the fast or the slow kind.
    """
    digest, found = hashlib.sha256(), False
    for role in _TOKENIZER_ROLES:
        tokenizer = getattr(pipe, role, None)
        if tokenizer is None or not hasattr(tokenizer, "get_vocab"):
            continue
        found = True
        tokens = [
            tokenizer(text, padding="max_length", truncation=True, max_length=_length(tokenizer)).input_ids
            for text in _PROBE
        ]
        facts = [role, sorted(tokenizer.get_vocab().items()), tokens]
        digest.update(json.dumps(facts).encode())
    return digest.hexdigest()[:16] if found else ""


def _length(tokenizer: Any) -> int:
    """Tokens at which a text is cut; tokenizers that know no limit name an enormous one."""
    return min(int(tokenizer.model_max_length), 512)
