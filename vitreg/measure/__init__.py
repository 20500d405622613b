"""Where a model looks, how far that is from where another looks, and how much of it is on the object.

They run the model themselves, in eval mode and without gradients, and leave it as it was.
"""

from vitreg.measure.attention import attention_drift, attention_maps, object_share
from vitreg.measure.rollout import attention_rollout

__all__ = ["attention_drift", "attention_maps", "attention_rollout", "object_share"]
