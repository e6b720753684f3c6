"""Worked rubrics: e-mail, database retrieval, law and medicine."""
