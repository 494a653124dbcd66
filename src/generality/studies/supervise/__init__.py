"""Learning from supervision weaker than the learner."""
