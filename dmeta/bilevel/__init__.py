"""The mathematics: inner loops, meta-gradient estimators, execution plans. Pure functions only."""
