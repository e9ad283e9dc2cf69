"""Was this process started by torchrun?"""

import os

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def under_torchrun() -> bool:
    """True if torchrun (or anything that sets its variables) started this process."""
    return all(name in os.environ for name in VARIABLES)
