"""Docstrings of enum members, which Python itself does not keep."""

import ast
import inspect
from enum import Enum
from itertools import pairwise


def of_members(enumeration: type[Enum]) -> dict[str, str]:
    """Member name -> the docstring below it, for members that have one."""
    (definition,) = ast.parse(inspect.getsource(enumeration)).body
    if not isinstance(definition, ast.ClassDef):
        raise TypeError(f"{enumeration} is not defined by a class statement")
    return dict(_documented(definition))


def _documented(definition: ast.ClassDef) -> list[tuple[str, str]]:
    found = []
    for member, text in pairwise(definition.body):
        match member, text:
            case ast.Assign(targets=[ast.Name(id=name)]), ast.Expr(value=ast.Constant(value=str(docstring))):
                found.append((name, " ".join(docstring.split())))
    return found
