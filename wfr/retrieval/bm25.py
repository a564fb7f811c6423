"""bm25s without JAX.

Where JAX is installed, importing bm25s starts it, and JAX takes three quarters of a GPU's memory as
it starts. Its ranking is not used here.
"""

from __future__ import annotations

import sys

_JAX = "jax"
_before = sys.modules.get(_JAX)
sys.modules[_JAX] = None  # type: ignore[assignment] # makes `import jax` fail
try:
    import bm25s
finally:
    if _before is None:
        del sys.modules[_JAX]
    else:
        sys.modules[_JAX] = _before

__all__ = ["bm25s"]
