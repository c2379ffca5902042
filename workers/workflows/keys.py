# SPDX-License-Identifier: Apache-2.0
"""Cache keys held against each other: which fields differ, and which known key is the nearest. Pure."""

from typing import Any, Dict, Iterable, List, Optional, Tuple

from farm.contract.canonical import canonical_json

#: A field's path with dots, its value in the key that is wanted, and in the one that is there.
Difference = Tuple[str, Any, Any]

ABSENT = "(absent)"
_MOST_SHOWN = 3
_LONGEST = 60


def differing(wanted: Any, found: Any, path: str = "") -> List[Difference]:
    """Every field in which two keys differ, by path; one that a side does not have is `ABSENT` there."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        parts: List[Difference] = []
        for name in sorted(set(wanted) | set(found)):
            below = "{}.{}".format(path, name) if path else str(name)
            parts += differing(wanted.get(name, ABSENT), found.get(name, ABSENT), below)
        return parts
    return [] if canonical_json(wanted) == canonical_json(found) else [(path or "key", wanted, found)]


def nearest(wanted: Dict[str, Any], known: Iterable[Dict[str, Any]]) -> Optional[List[Difference]]:
    """How the known key with the fewest differing fields differs; None where no key is known."""
    found = [differing(wanted, key) for key in known]
    return min(found, key=lambda parts: (len(parts), repr(parts))) if found else None


def described(parts: Optional[List[Difference]]) -> str:
    """Differences in words, the first few of them."""
    if parts is None:
        return "everything: the cache has none of its kind"
    shown = ["{}: needed {}, there {}".format(path, _short(a), _short(b)) for path, a, b in parts[:_MOST_SHOWN]]
    more = ["and {} more".format(len(parts) - _MOST_SHOWN)] if len(parts) > _MOST_SHOWN else []
    return "; ".join(shown + more) or "nothing"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
