"""The options that a class or function declares, read from its source without importing it.

Importing a method imports torch, which takes over a second. Its options are needed before that: to
compose settings, to complete a command line, to refuse a wrong key.

Understood are defaults that are literals, constants of their module or of `math`, and calls of a
dataclass that is read in turn: the fields of an inner loop are options of the method that has it.
`dmeta.options.default_options` gives the same for what is imported; a test compares the two for
everything that dmeta registers.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import functools
import importlib.util
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

_IMPORTED = frozenset({"typing", "collections.abc", "math", "pydantic"})
"""Modules of which a name in an annotation or a default is imported: none of them takes long."""

_SECTION = re.compile(r"^(Args|Attributes)\b.*:$")


REQUIRED = "???"
"""As a default: the option must be given (Hydra's own sign)."""

PROVIDED = frozenset(
    {
        *("network", "loss", "input_shape", "num_outputs", "init_seed"),
        *("num_base_classes", "base_class_sizes"),
    }
)
"""Keywords of a factory that come from the run, not from its settings."""


def _unknown_type() -> Any:
    return Any


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        name: its keyword.
        default: as plain data (lists for tuples); `REQUIRED`: it must be given.
        help: its text in the docstring; may be empty.
        type_of: returns its type; `typing.Any` if that is only known when the program runs.
    """

    name: str
    default: Any
    help: str = ""
    type_of: Callable[[], Any] = _unknown_type


class NotReadableError(ValueError):
    """The source says it in a form that is not understood here."""


@functools.cache
def declared_options(target: str) -> tuple[Option, ...]:
    """The options of a class or function, in its order.

    Args:
        target: ``module:name``, as in an entry point.

    Raises:
        NotReadableError: a default is none of the forms above.
    """
    module, _, name = target.partition(":")
    home, node = _find(_source_of(module), name)
    return tuple(_options(home, node))


def documented(docstring: str) -> dict[str, str]:
    """Argument or attribute -> its text in a Google-style docstring without indentation."""
    found: dict[str, str] = {}
    inside, name = False, ""
    for line in docstring.splitlines():
        if not line.startswith(" "):
            inside = bool(_SECTION.match(line)) or (inside and not line)
            continue
        entry = re.match(r"^    (\w+): (.*)$", line)
        if inside and entry:
            name = entry[1]
            found[name] = entry[2]
        elif inside and name and line.startswith(" " * 8):
            found[name] += " " + line.strip()
    return found


@dataclass(frozen=True)
class _Source:
    """A module that is read: what it defines, and where what it imports from is."""

    module: str
    defined: dict[str, ast.stmt]
    imported: dict[str, tuple[str, str]]


@functools.cache
def _source_of(module: str) -> _Source:
    defined: dict[str, ast.stmt] = {}
    imported: dict[str, tuple[str, str]] = {}
    for node in _statements(ast.parse(_path_of(module).read_text(encoding="utf-8")).body):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            defined[node.name] = node
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                imported[alias.asname or alias.name] = (node.module, alias.name)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            defined[node.targets[0].id] = node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            defined[node.target.id] = node
    return _Source(module, defined, imported)


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Those of a module, and of its conditions (imports for type checkers)."""
    for node in body:
        if isinstance(node, ast.If):
            yield from _statements(node.body)
        else:
            yield node


def _path_of(module: str) -> Path:
    """The file of a module; no package is imported for it."""
    top, *inner = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None:
        raise NotReadableError(f"the source of {module} must be readable, got no package {top}")
    if not inner:
        return Path(spec.origin)
    path = Path(spec.origin).parent.joinpath(*inner)
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _find(source: _Source, name: str) -> tuple[_Source, ast.stmt]:
    """Where a name of a module is defined, and how."""
    if name in source.defined:
        return source, source.defined[name]
    if name in source.imported:
        module, there = source.imported[name]
        return _find(_source_of(module), there)
    raise NotReadableError(f"{source.module} must define {name}, got no such name")


def _options(source: _Source, node: ast.stmt) -> Iterator[Option]:
    texts = documented(_docstring(node))
    for name, annotation, default in _parameters(node):
        if isinstance(default, ast.Call) and (fields := _fields_of(source, default)) is not None:
            changed = {each.arg: _value(source, each.value) for each in default.keywords}
            for each in fields:
                yield dataclasses.replace(each, default=changed.get(each.name, each.default))
            continue
        value = REQUIRED if default is None else _value(source, default)
        type_of: Callable[[], Any] = _unknown_type
        if annotation is not None:
            type_of = functools.partial(_hint, source, annotation)
            if _takes_floats(annotation) and type(value) is int:
                value = float(value)
        yield Option(name, value, texts.get(name, ""), type_of)


def _takes_floats(annotation: ast.expr) -> bool:
    """Whether a number is a float, even if its default is written as a whole number."""
    names = {each.id for each in ast.walk(annotation) if isinstance(each, ast.Name)}
    return "float" in names and "int" not in names


def _docstring(node: ast.stmt) -> str:
    assert isinstance(node, ast.ClassDef | ast.FunctionDef)
    return ast.get_docstring(node) or ""


def _parameters(node: ast.stmt) -> Iterator[tuple[str, ast.expr | None, ast.expr | None]]:
    """Name, annotation and default of each field of a dataclass, or argument of a function."""
    if isinstance(node, ast.ClassDef):
        functions = [each for each in node.body if isinstance(each, ast.FunctionDef)]
        init = next((each for each in functions if each.name == "__init__"), None)
        if init is None:
            yield from _fields(node)
            return
        node = init
    assert isinstance(node, ast.FunctionDef)
    given = [each for each in node.args.args if each.arg != "self"]
    defaults = [None] * len(given) + node.args.defaults
    pairs = [*zip(given, defaults[len(defaults) - len(given) :], strict=True)]
    pairs += zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    for argument, default in pairs:
        yield argument.arg, argument.annotation, default


def _fields(node: ast.ClassDef) -> Iterator[tuple[str, ast.expr, ast.expr | None]]:
    for each in node.body:
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
            if ast.unparse(each.annotation).startswith("ClassVar"):
                continue
            yield each.target.id, each.annotation, each.value


def _fields_of(source: _Source, call: ast.Call) -> tuple[Option, ...] | None:
    """The fields of the dataclass that is called; None if it is none of dmeta's."""
    if not isinstance(call.func, ast.Name) or call.func.id not in (
        source.imported.keys() | source.defined.keys()
    ):
        return None
    module, name = source.imported.get(call.func.id, (source.module, call.func.id))
    return declared_options(f"{module}:{name}") if module.startswith("dmeta.") else None


def _value(source: _Source, node: ast.expr) -> Any:
    """A default as plain data."""
    try:
        found = ast.literal_eval(node)
    except ValueError:
        return _computed(source, node)
    return _plain(found)


def _computed(source: _Source, node: ast.expr) -> Any:
    """A default that is no literal."""
    if isinstance(node, ast.Name):
        home, defined = _find(source, node.id)
        if isinstance(defined, ast.Assign | ast.AnnAssign) and defined.value is not None:
            return _value(home, defined.value)
    if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "math":
        return getattr(math, node.attr)
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("field", "dataclasses.field"):
        arguments = {each.arg: each.value for each in node.keywords}
        factory = ast.unparse(arguments.get("default_factory", ast.Constant(None)))
        if factory in ("dict", "list"):
            return {} if factory == "dict" else []
    raise NotReadableError(
        f"a default in {source.module} must be a literal, a constant or a dataclass, got "
        f"{ast.unparse(node)}; write it so, or read it from the imported object"
    )


def _plain(value: Any) -> Any:
    return [_plain(each) for each in value] if isinstance(value, tuple | list) else value


def _hint(source: _Source, node: ast.expr) -> Any:
    """An annotation as a type; Any if a name in it is of a module that is not imported here."""
    names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    try:
        known = {name: _type(source, name) for name in names}
    except (NotReadableError, AttributeError):
        return Any
    return eval(compile(ast.Expression(node), source.module, "eval"), known)


def _type(source: _Source, name: str) -> Any:
    """What a name in an annotation stands for."""
    if name in source.imported:
        module, there = source.imported[name]
        if module in _IMPORTED:
            return getattr(import_module(module), there)
    elif name not in source.defined:
        return getattr(builtins, name)
    home, node = _find(source, name)
    if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
        hint = _hint(home, node.value)
        if hint is not Any:
            return hint
    raise NotReadableError(f"{name} of {home.module} must be an alias of known types")
