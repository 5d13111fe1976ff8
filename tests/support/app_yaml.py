"""What ``app.yaml`` may say on App Engine flex, key by key, each with its source.

Written from Google's reference; the bounds are those of Google's own parser of the
file, which refuses one before it is deployed. Keys that neither the reference of the
flexible environment nor its guides have are left out, though the parser takes some.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

_DOCS = "https://docs.cloud.google.com"
REFERENCE = f"{_DOCS}/appengine/docs/flexible/reference/app-yaml"
RUNTIME = f"{_DOCS}/appengine/docs/flexible/python/runtime"
AFFINITY = f"{_DOCS}/appengine/docs/flexible/using-websockets-and-session-affinity"
HEALTH = f"{_DOCS}/appengine/docs/flexible/migrating-to-split-health-checks"
CLOUD_SQL = f"{_DOCS}/sql/docs/postgres/connect-app-engine-flexible"
PARSER = (
    "https://github.com/GoogleCloudPlatform/appengine-python-standard/blob/main/"
    "src/google/appengine/api/appinfo.py"
)

Check = Callable[[Any], bool]


class Key(NamedTuple):
    """A key: what its value must be, where that is said, whether it may be missing.

    Args:
        value: A check, or the keys of a mapping.
        sources: Addresses.
        required: Whether the file, or the section, needs it.
    """

    value: Check | Mapping[str, Key]
    sources: tuple[str, ...]
    required: bool = False


def _text(pattern: str) -> Check:
    return lambda value: isinstance(value, str) and bool(re.fullmatch(pattern, value))


def _number(least: float, most: float = float("inf"), *, whole: bool = True) -> Check:
    def check(value: Any) -> bool:
        kind = int if whole else (int, float)
        return (
            type(value) is not bool
            and isinstance(value, kind)
            and (least <= value <= most)
        )

    return check


def _cores(value: Any) -> bool:
    return value == 1 or (isinstance(value, int) and value >= 2 and value % 2 == 0)


def _variables(value: Any) -> bool:
    # The parser would take other values, and make them texts such as "True" and "1.0".
    return isinstance(value, dict) and all(
        re.fullmatch(r"[A-Za-z_]\w*", name) and isinstance(text, str)
        for name, text in value.items()
    )


_anything = _text(r"(?s).+")
_resource = r"[a-z]([a-z\d-]{0,61}[a-z\d])?"
_both = (REFERENCE, PARSER)
_check = (REFERENCE, HEALTH, PARSER)
_CHECK_KEYS = {
    # Without a path the application is not asked at all.
    "path": Key(_text(r"/\S*"), _check, required=True),
    "host": Key(_anything, _check),
    "check_interval_sec": Key(_number(1), _check),
    "timeout_sec": Key(_number(1), _check),
    "failure_threshold": Key(_number(1), _check),
    "success_threshold": Key(_number(1), _check),
}

SCHEMA: Mapping[str, Key] = {
    "runtime": Key(_text("python"), (REFERENCE, RUNTIME), required=True),
    "env": Key(_text("flex"), _both, required=True),
    "service": Key(_text(_resource), _both),
    "runtime_config": Key(
        {
            # Which Python runs on which: .../flexible/lifecycle/support-schedule#python
            "operating_system": Key(_text(r"ubuntu(22|24)"), (RUNTIME,), required=True),
            "runtime_version": Key(_text(r"3\.\d+"), (RUNTIME,)),
        },
        (REFERENCE, RUNTIME),
        required=True,  # from Python 3.8 on
    ),
    "entrypoint": Key(_anything, (REFERENCE, RUNTIME)),
    "network": Key(
        {
            "name": Key(_text(r"[a-z\d-]+(/[a-z\d-]+)*"), _both),
            "subnetwork_name": Key(_text(_resource), _both),
            "instance_tag": Key(_text(_resource), _both),
            "instance_ip_mode": Key(_text("internal|external"), (REFERENCE,)),
            "session_affinity": Key(
                lambda value: isinstance(value, bool), (REFERENCE, AFFINITY)
            ),
        },
        (REFERENCE,),
    ),
    "readiness_check": Key(
        {**_CHECK_KEYS, "app_start_timeout_sec": Key(_number(1), _check)}, _check
    ),
    "liveness_check": Key(
        {**_CHECK_KEYS, "initial_delay_sec": Key(_number(0), _check)}, _check
    ),
    "automatic_scaling": Key(
        {
            "min_num_instances": Key(_number(1), _both),
            "max_num_instances": Key(_number(1), _both),
            "cool_down_period_sec": Key(_number(60), _both),
            "cpu_utilization": Key(
                {"target_utilization": Key(_number(1e-6, 1, whole=False), _both)}, _both
            ),
            "target_concurrent_requests": Key(_number(1), _both),
        },
        _both,
    ),
    "manual_scaling": Key({"instances": Key(_number(1), _both, required=True)}, _both),
    "resources": Key(
        {
            "cpu": Key(_cores, _both),
            "memory_gb": Key(_number(0.6, whole=False), _both),
            "disk_size_gb": Key(_number(10), _both),
        },
        _both,
    ),
    "beta_settings": Key(
        {"cloud_sql_instances": Key(_text(r"[\w:.,-]+(=tcp:\d+)?"), (CLOUD_SQL,))},
        (CLOUD_SQL, PARSER),
    ),
    "env_variables": Key(_variables, _both),
    "build_env_variables": Key(_variables, _both),
}


def problems(
    found: Any, schema: Mapping[str, Key] = SCHEMA, where: str = ""
) -> Iterator[str]:
    """Say what of a file, or of a section of it, is not as the schema has it."""
    if not isinstance(found, dict):
        yield f"{where or 'the file'} is no mapping"
        return
    for name, value in found.items():
        key = schema.get(name)
        if key is None:
            yield f"{where}{name} is no key"
        elif not callable(key.value):
            yield from problems(value, key.value, f"{where}{name}.")
        elif not key.value(value):
            yield f"{where}{name} is {value!r}"
    for name, key in schema.items():
        if key.required and name not in found:
            yield f"{where}{name} is missing"
    if not where and {"automatic_scaling", "manual_scaling"} <= found.keys():
        yield "there are two ways of scaling"
