"""What people say about answers: preferences and thumbs, collected, checked, compared; a rater that is a program."""

from rlkit.feedback.agreement import cohen_kappa, fleiss_kappa
from rlkit.feedback.data import (
    as_dataset,
    check_preferences,
    check_thumbs,
    pairs_from_thumbs,
    thumbs_from_pairs,
)
from rlkit.feedback.questions import Question, Questions
from rlkit.feedback.rater import SyntheticRater
from rlkit.feedback.store import Entry, FeedbackStore, FeedbackWarning
from rlkit.feedback.taste import Taste

__all__ = [
    "Entry",
    "FeedbackStore",
    "FeedbackWarning",
    "Question",
    "Questions",
    "SyntheticRater",
    "Taste",
    "as_dataset",
    "check_preferences",
    "check_thumbs",
    "cohen_kappa",
    "fleiss_kappa",
    "pairs_from_thumbs",
    "thumbs_from_pairs",
]
