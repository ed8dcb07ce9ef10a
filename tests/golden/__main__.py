"""Make losses.json anew; with --check, print how far this machine's losses are from it."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from tests import golden


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        if sys.argv[1:] == ["--check"]:
            for case in golden.CASES:
                print(f"{case}: {golden.deviation(case, Path(folder)):.1e}")
        else:
            found = {case: [round(loss, 9) for loss in golden.losses(case, Path(folder))] for case in golden.CASES}
            golden.FILE.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
