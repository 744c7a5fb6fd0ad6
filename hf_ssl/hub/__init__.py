"""From a run to the Hub: the repository that every loader opens, its generated card, and what is made of it."""
