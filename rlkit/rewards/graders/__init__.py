"""The graders of OpenAI's reinforcement fine-tuning, as reward functions."""
