"""survey-gampen: Bayesian posteriors of galaxy morphology for every row of a survey."""

__version__ = "0.1.0"
