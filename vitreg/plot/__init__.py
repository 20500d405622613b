"""Pictures of attention and of its measures, as figures of matplotlib: `import vitreg.plot`.

Each function returns a figure and saves nothing; a notebook shows it, `figure.savefig("name.png")` keeps it.
Text and lines have the colours that matplotlib is set to: `with matplotlib.style.context("dark_background"):`
is dark mode.
"""

try:
    import matplotlib  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "vitreg.plot draws with matplotlib, which is not installed. Install it with "
        'pip install "vitreg[plot]", or pip install -e ".[plot]" in a clone.',
        name=error.name,
    ) from error

from vitreg.plot.attention import attention, rollout
from vitreg.plot.blocks import drift, object_share
from vitreg.plot.curves import against_lam, against_steps
from vitreg.plot.overlay import overlay

__all__ = ["against_lam", "against_steps", "attention", "drift", "object_share", "overlay", "rollout"]
