"""The outer step: what the server does with gradients."""
