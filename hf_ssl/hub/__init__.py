"""From a run to a Hub repository: the folder that every loader opens, and its generated model card."""
