"""What each widget knows and computes, without a notebook: plain Python, no ipywidgets."""
