"""Several hypotheses for one data set: finding the one that generalises."""
