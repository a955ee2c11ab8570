"""The messages of DeepSpeed-MII's gRPC service, as ``mii.proto`` has them.

MII's own generated module can only be had by importing MII, which imports torch; and code generated here would bind the
client to one version of protobuf. So the messages are described in place: protobuf makes its classes of that.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

__all__ = [
    "SERVICE",
    "DecodeError",
    "MultiGenerationReply",
    "MultiStringRequest",
    "add_field",
    "file",
    "settings",
]

SERVICE = "/modelresponse.ModelResponse/"
PACKAGE = "modelresponse"
_FIELD = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "string": _FIELD.TYPE_STRING,
    "int32": _FIELD.TYPE_INT32,
    "int64": _FIELD.TYPE_INT64,
    "uint32": _FIELD.TYPE_UINT32,
    "uint64": _FIELD.TYPE_UINT64,
    "float": _FIELD.TYPE_FLOAT,
    "bool": _FIELD.TYPE_BOOL,
}
# Message → fields by number: (name, type, repeated). A type with a capital letter is a message.
FIELDS: dict[str, tuple[tuple[str, str, bool], ...]] = {
    "Value": (
        ("svalue", "string", False), ("ivalue", "int64", False), ("fvalue", "float", False), ("bvalue", "bool", False),
    ),
    "MultiStringRequest": (("request", "string", True), ("query_kwargs", "QueryKwargsEntry", True)),
    "SingleGenerationReply": (
        ("response", "string", False), ("finish_reason", "string", False), ("prompt_tokens", "int64", False),
        ("generated_tokens", "int64", False), ("time_taken", "float", False), ("model_time_taken", "float", False),
    ),
    "MultiGenerationReply": (("response", "SingleGenerationReply", True),),
}  # fmt: skip


def file() -> Any:
    """The FileDescriptorProto that ``mii.proto`` compiles to, its service left out."""
    made = descriptor_pb2.FileDescriptorProto(name="loadgen/mii.proto", package=PACKAGE, syntax="proto3")
    for name, fields in FIELDS.items():
        message = made.message_type.add(name=name)
        if name == "Value":
            message.oneof_decl.add(name="oneof_values")
        if name == "MultiStringRequest":
            entry = message.nested_type.add(name="QueryKwargsEntry")
            entry.options.map_entry = True
            add_field(entry, 1, "key", "string")
            add_field(entry, 2, "value", "Value")
        for number, (field, kind, repeated) in enumerate(fields, start=1):
            scope = f"{name}." if kind == "QueryKwargsEntry" else ""
            added = add_field(message, number, field, scope + kind, repeated=repeated)
            if name == "Value":
                added.oneof_index = 0
    return made


def add_field(
    message: Any, number: int, name: str, kind: str, *, repeated: bool = False, package: str = PACKAGE
) -> Any:
    """Add a field to a message's description; a ``kind`` that is not of ``_TYPES`` is a message of ``package``."""
    label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
    field = message.field.add(name=name, number=number, label=label, json_name=_json_name(name))
    if kind in _TYPES:
        field.type = _TYPES[kind]
    else:
        field.type, field.type_name = _FIELD.TYPE_MESSAGE, f".{package}.{kind}"
    return field


def _json_name(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


# A pool of our own: MII's module, where it is loaded too, registers the same names in the default one.
_POOL = descriptor_pool.DescriptorPool()
_POOL.Add(file())


def _class(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))


MultiStringRequest: Any = _class("MultiStringRequest")
MultiGenerationReply: Any = _class("MultiGenerationReply")


def settings(values: dict[str, str | int | float | bool]) -> dict[str, Any]:
    """``query_kwargs`` of a request: each value in the field of its type."""
    value_class = _class("Value")
    fields = {bool: "bvalue", int: "ivalue", float: "fvalue", str: "svalue"}
    return {name: value_class(**{fields[type(value)]: value}) for name, value in values.items()}
