"""What a file holds: a module or weights; and which of the two an unpickled object is."""

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from prelu_doctor.checkpoints.module_structure import check_restored_module, check_trusted_module
from prelu_doctor.checkpoints.reading import Reading
from prelu_doctor.checkpoints.versions import below, with_versions_of
from prelu_doctor.errors import CheckpointError
from prelu_doctor.escaping import escaped, listed
from prelu_doctor.expected_inputs import ExpectedInputs
from prelu_doctor.untrusted.opened_files import HashedFile
from prelu_doctor.untrusted.stand_ins import StandIn

_FIRST_KEYS = ("state_dict", "model_state_dict", "model")
_OTHER_KEYS = ("net", "network", "params", "weights", "module", "model_state", "net_state_dict")
_DEEPEST = 3
_REMEDY = f"save torch.save(model.state_dict(), 'weights.pt'), or a dictionary with it under {listed(_FIRST_KEYS)}"
_PLAIN = (int, float, bool, str, type(None))


@dataclass(frozen=True)
class Contents:
    """A module or weights, and where they were found.

    Attributes:
        module: None where there are weights.
        state: None where there is a module.
        note: As "taken from key 'model'"; may be empty.
        recipe_text: The JSON recipe of a converted file; None for others.
        expected: What the module takes, where the file tells.
        parts: The files that were read, where they are several or lie in a folder; empty for one file by itself.
    """

    module: nn.Module | None = None
    state: dict[str, Tensor] | None = None
    note: str = ""
    recipe_text: str | None = None
    expected: ExpectedInputs | None = None
    parts: tuple[HashedFile, ...] = ()


def weights_or_module(content: Any, path: Path, reading: Reading, classes: frozenset[type] = frozenset()) -> Contents:
    """The weights or the module in what a file held.

    Args:
        content: The unpickled object.
        path: For messages.
        reading: Tells where they stand, and whether the user vouched for the file, so that a module may carry hooks.
        classes: Those of the user's that a module may be made of.

    Raises:
        CheckpointError: Where neither is there, or the module is not sound.
    """
    if reading.weights_key is None:
        key, found, note = _usual_place(content, path)
    else:
        key, found, note = reading.weights_key, _at(content, reading.weights_key), ""
        if not _holds_weights(found):
            raise _wrong_key(content, reading.weights_key, path, found)
    note = _joined(key and f"taken from key '{escaped(key)}'{note}")
    if isinstance(found, nn.Module):
        return _module(found, path, reading, classes, note)
    state = _state(found)
    extra = [name for name in found if name not in state]
    return Contents(state=state, note=_joined(note, _left_out(extra)))


def _module(module: nn.Module, path: Path, reading: Reading, classes: frozenset[type], note: str) -> Contents:
    if reading.trust:
        check_trusted_module(module, path)
    else:
        check_restored_module(module, path, classes)
    if isinstance(module, nn.DataParallel | AveragedModel):
        return Contents(module.module, note=_joined(note, f"taken out of its {type(module).__name__}"))
    return Contents(module, note=note)


def _usual_place(content: Any, path: Path) -> tuple[str, Any, str]:
    """The key, what stands there, and what else could be taken; the key is empty for the content itself."""
    if _holds_weights(content):
        return "", content, ""
    if not isinstance(content, Mapping):
        raise _nothing_found(path, _described(content))
    places = [key for key in _FIRST_KEYS if _holds_weights(content.get(key))][:1]
    places = places or [key for key in _OTHER_KEYS if _holds_weights(content.get(key))]
    candidates = _candidates(content)
    if len(places) == 1:
        others = [key for key in candidates if key != places[0]]
        return places[0], content[places[0]], f" (--weights-key could take {listed(others, 5)})" if others else ""
    if candidates:
        raise CheckpointError(
            f"{escaped(path)}: holds {_described(content)}; weights stand under {listed(candidates)}",
            f"one set of weights, or one under {listed(_FIRST_KEYS)}",
            f"--weights-key {escaped(candidates[0])}",
        )
    raise _nothing_found(path, _described(content), _remedy(content))


def _candidates(content: Mapping[Any, Any]) -> list[str]:
    """Keys under which weights stand, dotted where dictionaries are nested."""
    return list(_weights_below(content, "", 1, set()))


def _weights_below(content: Mapping[Any, Any], prefix: str, depth: int, seen: set[int]) -> Iterator[str]:
    for key, value in content.items():
        # Each once: a hostile file puts one large dictionary into another a thousand times.
        if not isinstance(key, str) or not isinstance(value, Mapping | nn.Module) or id(value) in seen:
            continue
        seen.add(id(value))
        if _holds_weights(value) and not _is_empty_module(value):
            yield prefix + key
        elif isinstance(value, Mapping) and depth < _DEEPEST:
            yield from _weights_below(value, f"{prefix}{key}.", depth + 1, seen)


def _at(content: Any, key: str) -> Any:
    """What stands under a dotted key; where it leads into a state dict, the weights whose names begin with its rest."""
    if not isinstance(content, Mapping):
        return None
    if key in content:
        return content[key]
    if _holds_weights(content):
        part = {name.removeprefix(f"{key}."): value for name, value in content.items() if name.startswith(f"{key}.")}
        return with_versions_of(content, part, below(f"{key}."))
    heads = (key[:place] for place in range(len(key)) if key[place] == ".")
    found = (_at(content[head], key[len(head) + 1 :]) for head in heads if head in content)
    return next((inner for inner in found if inner is not None), None)


def _holds_weights(content: Any) -> bool:
    return isinstance(content, nn.Module) or _is_state_dict(content)


def _is_empty_module(content: Any) -> bool:
    """A loss, say. A hostile module has not even the attributes that this looks at."""
    return isinstance(content, nn.Module) and not any(vars(content).get(key) for key in ("_parameters", "_modules"))


def _is_state_dict(content: Any) -> bool:
    """Tensors by name; beside them a module's extra state, which may be anything, and plain values, if they are few."""
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        return False
    tensors = sum(isinstance(value, Tensor) for value in content.values())
    others = [value for name, value in content.items() if not (isinstance(value, Tensor) or _is_extra(name))]
    return tensors > len(others) and all(isinstance(value, _PLAIN) for value in others)


def _is_extra(name: str) -> bool:
    return name.endswith("_extra_state")


def _state(found: Mapping[str, Any]) -> OrderedDict[str, Tensor]:
    """The tensors, plain ones: whatever a file put on them as attributes stays behind."""
    tensors = {name: Tensor.detach(value) for name, value in found.items() if isinstance(value, Tensor)}
    return with_versions_of(found, tensors)


def _left_out(names: list[str]) -> str:
    extra = sum(_is_extra(name) for name in names)
    plain = [name for name in names if not _is_extra(name)]
    return _joined(
        f"{extra} entries of extra state left out" if extra else "",
        f"left out, because no tensors: {listed(plain, 5)}" if plain else "",
    )


def _described(content: Any) -> str:
    if isinstance(content, Tensor):
        return f"a bare tensor of shape {tuple(content.shape)}"
    if not isinstance(content, Mapping):
        return (
            f"a {escaped(type(content).__name__)}"
            if not isinstance(content, StandIn)
            else "an object that is no module"
        )
    others = [key for key, value in content.items() if isinstance(value, StandIn)]
    objects = f" (objects that are no tensors: {listed(others, 3)})" if others else ""
    return f"a dictionary with the keys {listed(content)}{objects}" if content else "an empty dictionary"


def _wrong_key(content: Any, key: str, path: Path, found: Any) -> CheckpointError:
    there = _candidates(content) if isinstance(content, Mapping) else []
    what = "no weights" if found is None or found == {} else _described(found)
    return CheckpointError(
        f"{escaped(path)}: holds {_described(content)}, and under the key '{escaped(key)}' {what}",
        f"one of the keys under which weights stand: {listed(there)}" if there else "a file with weights in it",
        f"--weights-key {escaped(_nearest(key, there))}" if there else "leave --weights-key out",
    )


def _nearest(key: str, there: Sequence[str]) -> str:
    """The key that was most likely meant: one within what was named, or one that is spelled alike."""
    within = [other for other in there if other.startswith(f"{key}.")]
    return (within or difflib.get_close_matches(key, there, n=1, cutoff=0) or [there[0]])[0]


def _nothing_found(path: Path, what: str, remedy: str = _REMEDY) -> CheckpointError:
    return CheckpointError(f"{escaped(path)}: holds {what}", "a module or a state dict (tensors by name)", remedy)


def _remedy(content: Mapping[Any, Any]) -> str:
    """What to do with objects by name: NumPy arrays, as a rule, which come out of a file as stand-ins."""
    if content and all(isinstance(value, StandIn) for value in content.values()):
        return (
            "save tensors: torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, 'weights.pt')"
        )
    return _REMEDY


def _joined(*notes: str) -> str:
    return ", ".join(note for note in notes if note)
