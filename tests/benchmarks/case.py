"""One fresh process: run a case and write its rows, each as soon as it is there.

python -m tests.benchmarks.case FILE module:function '[arguments]'
"""

import importlib
import json
import os
import sys
import traceback
import warnings


def main() -> None:
    """Run the function of the command line."""
    file, function, arguments = sys.argv[1:]
    package = os.environ.get("BENCHMARK_PACKAGE")
    if package:
        sys.path.insert(0, package)
    warnings.simplefilter("ignore")
    module, name = function.split(":")
    problem = importlib.import_module(f"tests.benchmarks.problems.{module}")
    if package:
        used = sys.modules["numpyro_dsn"].__file__
        assert used.startswith(package), f"{used} is not in {package}"
    with open(file, "a", encoding="utf-8") as rows:
        for row in getattr(problem, name)(*json.loads(arguments)):
            print(json.dumps(row.as_dict()), file=rows, flush=True)


if __name__ == "__main__":
    try:
        main()
    except Exception as error:
        traceback.print_exc()
        # The last line goes into the table.
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", flush=True)
        sys.exit(1)
