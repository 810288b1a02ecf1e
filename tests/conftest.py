"""What every test shares.

Hypothesis tries the same examples in each run, and no example has a deadline: a loaded machine is no fault.
`MESHSAT_EXPLORE=1` tries new ones.
"""

import os

from hypothesis import settings

settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile("explore" if os.environ.get("MESHSAT_EXPLORE") == "1" else "same")
