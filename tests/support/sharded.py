"""Trains what test_sharded.py compares, started alone or by `accelerate launch`: every start imports torch and trl.

sharded.py MODEL_DIR OUTPUT
"""

import sys
from pathlib import Path

from accelerate.state import AcceleratorState

sys.path[:0] = [str(Path(__file__).parents[1])]

from support import sharded_grpo, sharded_policies  # noqa: E402

if __name__ == "__main__":
    model_dir, output = (Path(path) for path in sys.argv[1:])
    runs = [(sharded_grpo.train, name) for name in sharded_grpo.VARIANTS]
    runs += [(sharded_policies.train, name) for name in sharded_policies.MADE]
    for train, name in runs:
        # Everything that accelerate knows of this process is in singletons.
        AcceleratorState._reset_state(reset_partial_state=False)
        train(name, model_dir, output / name)
