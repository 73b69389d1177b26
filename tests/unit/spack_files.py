"""What the files in `spack` are held against: a schema of their own, and the grammar of specs."""

import re

NAME = r"[a-z0-9][a-z0-9-]*"
VERSION = r"[A-Za-z0-9][A-Za-z0-9._-]*"
RANGE = rf"(?:=?{VERSION}(?::(?:{VERSION})?)?|:{VERSION})"
VALUE = r"(?:'[^']+'|[A-Za-z0-9_.:,-]+)"
PART = rf"(?:[+~][a-z0-9_-]+|[a-z_]+:?={VALUE}|@{RANGE}(?:,{RANGE})*|%{NAME}(?:@{RANGE})?)"
SPEC = re.compile(rf"(?:{NAME})?(?: ?{PART})*")


def is_spec(text):
    return isinstance(text, str) and bool(text) and SPEC.fullmatch(text) is not None


EXTERNAL = {
    "type": "object",
    "required": ["spec", "prefix"],
    "additionalProperties": False,
    "properties": {
        "spec": {"type": "string", "format": "spec", "pattern": "@"},
        "prefix": {"type": "string", "pattern": "^/"},
        "extra_attributes": {
            "type": "object",
            "required": ["compilers"],
            "additionalProperties": False,
            "properties": {
                "compilers": {
                    "type": "object",
                    "propertyNames": {"enum": ["c", "cxx", "fortran"]},
                    "additionalProperties": {"type": "string", "pattern": "^/"},
                }
            },
        },
    },
}
PACKAGE = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": False,
    "properties": {
        "buildable": {"type": "boolean"},
        "externals": {"type": "array", "minItems": 1, "items": EXTERNAL},
        "require": {"type": "string", "format": "spec"},
        "providers": {
            "type": "object",
            "additionalProperties": {"type": "array", "items": {"type": "string"}},
        },
    },
}
SECTIONS = {
    "definitions": {
        "type": "array",
        "items": {
            "type": "object",
            "additionalProperties": {
                "type": "array",
                "uniqueItems": True,
                "items": {"type": "string", "format": "spec", "pattern": "^[a-z]"},
            },
        },
    },
    "packages": {
        "type": "object",
        "propertyNames": {"pattern": f"^{NAME}$"},
        "additionalProperties": PACKAGE,
    },
    "repos": {"type": "object", "additionalProperties": {"type": "string", "pattern": r"^\.\./"}},
    "concretizer": {
        "type": "object",
        "additionalProperties": False,
        "required": ["unify", "reuse", "timeout", "targets"],
        "properties": {
            "unify": {"const": True},
            "reuse": {"const": False},
            "timeout": {"type": "integer", "minimum": 60},
            "targets": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "granularity": {"enum": ["microarchitectures", "generic"]},
                    "host_compatible": {"type": "boolean"},
                },
            },
        },
    },
    "config": {
        "type": "object",
        "additionalProperties": False,
        "properties": {"install_tree": {"type": "object", "required": ["projections"]}},
    },
    "modules": {
        "type": "object",
        "additionalProperties": False,
        "properties": {"default": {"type": "object", "required": ["enable:"]}},
    },
    "mirrors": {
        "type": "object",
        "additionalProperties": {
            "type": "object",
            "required": ["url"],
            "additionalProperties": False,
            "properties": {
                "url": {"type": "string", "pattern": "^(https|file|s3|oci)://"},
                "source": {"type": "boolean"},
                "binary": {"type": "boolean"},
                "signed": {"const": True},
            },
        },
    },
}
PART_FILE = {
    "type": "object",
    "minProperties": 1,
    "maxProperties": 1,
    "additionalProperties": False,
    "properties": SECTIONS,
}
ENVIRONMENT_FILE = {
    "type": "object",
    "required": ["spack"],
    "additionalProperties": False,
    "properties": {
        "spack": {
            "type": "object",
            "required": ["include", "specs", "view"],
            "additionalProperties": False,
            "properties": {
                "include": {
                    "type": "array",
                    "uniqueItems": True,
                    "items": {"type": "string", "pattern": r"^\.\./\.\./[a-z0-9_/]+\.yaml$"},
                },
                "specs": {"type": "array", "items": {"type": "string", "format": "spec or list"}},
                # the role makes it, in the release
                "view": {"const": False},
            },
        }
    },
}
