"""Runs a program of this package: `python -P .../engine/__main__.py engine.compiling`.

The package is taken from where this file is, as the same that started it. That folder is not put on
the path, since it may be a working folder, with modules of any name in it.
"""

import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path


def main() -> None:
    """Run `main` of the module that the command line names."""
    package = Path(__file__).parent
    spec = spec_from_file_location(
        package.name, package / "__init__.py", submodule_search_locations=[str(package)]
    )
    assert spec is not None and spec.loader is not None
    sys.modules[package.name] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[package.name])
    import_module(sys.argv[1]).main()


if __name__ == "__main__":
    main()
