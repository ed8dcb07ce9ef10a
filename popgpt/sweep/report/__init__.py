"""A sweep's report, made of what sweep.json holds: what there is to say, and the two files that say it."""
