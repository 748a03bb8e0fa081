"""Imports the stubs in the folder that the first argument names, and lists the names that clash with Python's."""

import ast
import importlib
import keyword
import pathlib
import sys

from google.protobuf import message
from google.protobuf.descriptor import FieldDescriptor

folder = pathlib.Path(sys.argv[1])
for path in sorted(folder.rglob("*.py")):
    importlib.import_module(".".join(path.relative_to(folder).with_suffix("").parts))
for path in sorted(folder.rglob("*.pyi")):
    ast.parse(path.read_text(), path)


def enum_names(enum):
    yield from (enum, *enum.values)


def message_names(descriptor):
    yield from (descriptor, *descriptor.fields, *descriptor.oneofs)
    for nested in descriptor.nested_types:
        yield from message_names(nested)
    for enum in descriptor.enum_types:
        yield from enum_names(enum)


def file_names(file):
    for descriptor in file.message_types_by_name.values():
        yield from message_names(descriptor)
    for enum in file.enum_types_by_name.values():
        yield from enum_names(enum)
    for service in file.services_by_name.values():
        yield from (service, *service.methods)


clashes = []
modules = [module for name, module in sorted(sys.modules.items()) if name.startswith("taghook.") and name.endswith("_pb2")]
for module in modules:
    for descriptor in file_names(module.DESCRIPTOR):
        is_field = isinstance(descriptor, FieldDescriptor)
        if keyword.iskeyword(descriptor.name) or is_field and hasattr(message.Message, descriptor.name):
            clashes.append(f"{module.DESCRIPTOR.name}: {descriptor.full_name}")
if not modules or clashes:
    sys.exit("no stubs" if not modules else "keywords, or methods of every message:\n" + "\n".join(clashes))
