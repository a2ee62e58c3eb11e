"""Print the largest files and functions: to be looked at, never a gate."""

from __future__ import annotations

import ast
import sys

from tests.repo.tree import product

FILE_LINES = 400
FUNCTION_LINES = 45
PARAMETERS = 6


def main() -> None:
    rows = []
    for source in product():
        count = source.text.count("\n")
        if count > FILE_LINES:
            rows.append((count, f"{source.path}"))
        for node in ast.walk(source.tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES:
                    rows.append((lines, f"{source.path}:{node.lineno} {node.name}()"))
                if len(node.args.posonlyargs + node.args.args) > PARAMETERS:
                    rows.append((lines, f"{source.path}:{node.lineno} {node.name}() parameters"))
    for count, what in sorted(rows, reverse=True):
        sys.stdout.write(f"{count:5d} lines  {what}\n")


if __name__ == "__main__":
    main()
