"""Where a model looks, how far that is from where another looks, and how much of it is on the object.

And how much of what the other one saw it still sees.

They run the model themselves, in eval mode and without gradients, and leave it as it was.
"""

from vitreg.measure.attention import attention_drift, attention_maps, object_share
from vitreg.measure.classes import channel_weights, class_relation
from vitreg.measure.features import FeatureSimilarity, feature_similarity
from vitreg.measure.outliers import Outliers, attention_outliers
from vitreg.measure.relevance import relevance
from vitreg.measure.rollout import attention_rollout

__all__ = [
    "FeatureSimilarity",
    "Outliers",
    "attention_drift",
    "attention_maps",
    "attention_outliers",
    "attention_rollout",
    "channel_weights",
    "class_relation",
    "feature_similarity",
    "object_share",
    "relevance",
]
